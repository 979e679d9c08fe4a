"""Writes the training and held-out samples of one domain as MDS shards, through mosaicml-streaming.

The same samples give the same bytes. Nothing is compressed, so that a reader can take one sample
with one ranged read, and so that the bytes do not depend on a compressor's version.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from storage.manifest import FileDigest, digest_file
from training.data.holdout import HoldoutDocument

SHARD_BYTES = 8 << 20
"""Size at which a shard is full: small enough to be fetched whole, large enough to be few."""


def write_train_shards(
    blocks: Iterable[np.ndarray], directory: Path, *, seq_len: int, token_dtype: str, prefix: str
) -> tuple[FileDigest, ...]:
    """Write training samples into ``directory``.

    Args:
        blocks: ``token_dtype[N, seq_len + 1]`` each, one sample a row, in order.
        directory: Must not exist or be empty.
        seq_len: Inputs of a sample.
        token_dtype: ``uint16`` or ``uint32``.
        prefix: Where ``directory`` will lie relative to the manifest; opens the names of the files.

    Returns:
        The shards and their index, none when there are no rows.
    """
    columns = {"tokens": f"ndarray:{token_dtype}:{seq_len + 1}"}
    return _write(
        columns, ({"tokens": row} for block in blocks for row in block), directory, prefix
    )


def write_holdout_shards(
    documents: Iterable[HoldoutDocument], directory: Path, *, token_dtype: str, prefix: str
) -> tuple[FileDigest, ...]:
    """Write held-out documents, tokens as little-endian ``token_dtype``; else as for training."""
    dtype = np.dtype(token_dtype).newbyteorder("<")
    samples = (
        {
            "document": row.document,
            "cluster": row.cluster,
            "tokens": row.tokens.astype(dtype).tobytes(),
            "text_bytes": row.text_bytes,
        }
        for row in documents
    )
    columns = {"document": "str", "cluster": "str", "tokens": "bytes", "text_bytes": "int"}
    return _write(columns, samples, directory, prefix)


def _write(
    columns: dict[str, str], samples: Iterable[dict[str, Any]], directory: Path, prefix: str
) -> tuple[FileDigest, ...]:
    """Write ``samples`` and digest the files; writes no file at all when there are none."""
    remaining = iter(samples)
    first = next(remaining, None)
    if first is None:
        return ()
    with _open_writer(columns, directory) as writer:
        writer.write(first)
        for sample in remaining:
            writer.write(sample)
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    return tuple(digest_file(path, f"{prefix}/{path.name}") for path in paths)


def _open_writer(columns: dict[str, str], directory: Path) -> Any:
    """An MDSWriter. ``streaming`` is imported here because that takes seconds."""
    from training.foreign.torchvision_operators import declare_missing_operators  # noqa: PLC0415  torch

    declare_missing_operators()
    from streaming import MDSWriter  # noqa: PLC0415  imports transformers and sklearn

    return MDSWriter(columns=columns, out=str(directory), size_limit=SHARD_BYTES)
