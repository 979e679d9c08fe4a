"""The tokens of single documents, where they lie in a snapshot."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.file_cache import FileCache
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest
from storage.takedowns import ForgottenDocument


def tokens_of(
    store: ObjectStore,
    prefix: str,
    manifest: SnapshotManifest,
    documents: Sequence[ForgottenDocument],
    cache: FileCache,
) -> Iterator[tuple[ForgottenDocument, NDArray[Any]]]:
    """Each of ``documents`` that is trained on or held out, with its tokens without framing.

    Args:
        store: Where the snapshot lies.
        prefix: Of the snapshot.
        manifest: Of the snapshot.
        documents: Of this snapshot.
        cache: Through which shards are read.

    Raises:
        CorruptError: A shard is missing or altered.
    """
    from training.data.shards import MdsReader, TrainShards, read_holdout  # noqa: PLC0415  numpy

    def reader(domain: str, split: str) -> MdsReader:
        return MdsReader(store, prefix, f"{domain}/{split}", manifest.files, cache)

    for domain in sorted({one.domain for one in documents}):
        train = [one for one in documents if (one.domain, one.split) == (domain, "train")]
        held = {one.document: one for one in documents if one.split == "holdout"}
        if train:
            shards = TrainShards(reader(domain, "train"), seq_len=manifest.seq_len)
            # Where one token opens and closes a document, it closes none.
            closing = int(manifest.start_id != manifest.end_id)
            for one in train:
                last = one.first_token + one.tokens - closing
                yield one, stream_of(shards, one.first_token + 1, last)
        if any(one.domain == domain for one in held.values()):
            rows = read_holdout(reader(domain, "holdout"), token_dtype=manifest.token_dtype)
            for row in rows:
                if row.document in held and held[row.document].domain == domain:
                    yield held[row.document], row.tokens[1:-1]


def stream_of(shards: Any, start: int, end: int) -> NDArray[Any]:
    """Tokens ``start`` to ``end`` of the stream that the rows of a domain are cut from."""
    if start >= end:
        return np.empty(0, shards.dtype)
    seq_len = shards.seq_len
    first, last = start // seq_len, min((end - 1) // seq_len, len(shards) - 1)
    rows: NDArray[Any] = shards.rows(np.arange(first, last + 1, dtype=np.int64))
    # A row's last token is the next one's first, and the stream's last that of no other row.
    stream = np.append(rows[:, :-1].ravel(), rows[-1, -1])
    return stream[start - first * seq_len : end - first * seq_len]
