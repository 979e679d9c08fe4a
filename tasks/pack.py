"""Tokenised documents of one domain become training rows, held-out rows and their shards.

Training documents are framed, concatenated in canonical order and cut into rows of
``seq_len + 1`` tokens that overlap by one, so that every token but the first is a target once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.manifest import FileDigest
from storage.snapshots import DomainSlice
from tasks.tokenize import TokenizedDocument
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards, write_train_shards

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What a tokenizer lays down for packing."""

    start_id: int
    end_id: int
    token_dtype: str
    """``uint16`` or ``uint32``."""
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedDomain:
    """What packing one domain gives."""

    slice: DomainSlice
    files: tuple[FileDigest, ...]
    """Named relative to the snapshot."""
    first_tokens: np.ndarray
    """``int64[documents]``: offset in the training stream, -1 for documents outside of it."""
    unigram: np.ndarray
    """``int64[vocab_size]``: see ``count_targets``."""


def framing_of(tokenizer: "Tokenizer") -> Framing:
    """What packing needs to know of ``tokenizer``."""
    return Framing(
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        token_dtype=tokenizer.token_dtype,
        vocab_size=tokenizer.vocab_size,
    )


def framed_length(num_tokens: int, framing: Framing) -> int:
    """Tokens of a training document of ``num_tokens`` with its framing."""
    return num_tokens + (1 if framing.start_id == framing.end_id else 2)


def token_stream(documents: Sequence[np.ndarray], framing: Framing) -> np.ndarray:
    """All ``documents`` framed and concatenated, ``token_dtype[N]``.

    Where one token opens and closes, the next document's opening closes the one before.
    """
    start = np.array([framing.start_id], framing.token_dtype)
    end = np.array([framing.end_id][: framing.start_id != framing.end_id], framing.token_dtype)
    pieces = [piece for tokens in documents for piece in (start, tokens, end)]
    return np.concatenate(pieces or [end[:0]], dtype=framing.token_dtype, casting="same_kind")


def pack_rows(stream: np.ndarray, seq_len: int, *, start_id: int) -> np.ndarray:
    """Cut ``stream`` into rows, ``[rows, seq_len + 1]``; the last one is padded with ``start_id``.

    Row k starts at token ``k * seq_len`` and ends with the first token of row k + 1. A stream of
    one token has no target and gives no row.
    """
    num_rows = -(-max(len(stream) - 1, 0) // seq_len)
    if not num_rows:
        return np.empty((0, seq_len + 1), stream.dtype)
    padded = np.full(num_rows * seq_len + 1, start_id, stream.dtype)
    padded[: len(stream)] = stream
    return np.lib.stride_tricks.sliding_window_view(padded, seq_len + 1)[::seq_len]


def count_targets(stream: np.ndarray, framing: Framing) -> np.ndarray:
    """How often each token is something to predict in a training stream, ``int64[vocab_size]``.

    The tokens of the texts and one end token a document: what the unigram model is made of that
    the first version of a lineage has to beat.
    """
    counts = np.zeros(framing.vocab_size, np.int64)
    # In pieces, because bincount works on a copy of eight bytes a token.
    for first in range(0, len(stream), _COUNTED_AT_ONCE):
        piece = stream[first : first + _COUNTED_AT_ONCE]
        counts += np.bincount(piece, minlength=framing.vocab_size)
    if framing.start_id != framing.end_id:
        counts[framing.start_id] = 0
    return counts


def pack_domain(
    domain: str,
    documents: Sequence[TokenizedDocument],
    framing: Framing,
    *,
    seq_len: int,
    directory: Path,
) -> PackedDomain:
    """Write the shards of one domain below ``directory`` / ``domain``, which must not exist.

    Args:
        domain: Name of the domain.
        documents: All of the domain in canonical order, split; dropped ones included.
        framing: Of the lineage's tokenizer.
        seq_len: Inputs of a sample.
        directory: Local directory that stands for the snapshot.
    """
    train = [row for row in documents if row.split == "train"]
    held = [row for row in documents if row.split == "holdout"]
    stream = token_stream([row.tokens for row in train], framing)
    rows = pack_rows(stream, seq_len, start_id=framing.start_id)
    files = write_train_shards(
        [rows],
        directory / domain / "train",
        seq_len=seq_len,
        token_dtype=framing.token_dtype,
        prefix=f"{domain}/train",
    )
    files += write_holdout_shards(
        (_holdout_row(row, framing) for row in held),
        directory / domain / "holdout",
        token_dtype=framing.token_dtype,
        prefix=f"{domain}/holdout",
    )
    packed = DomainSlice(
        domain=domain,
        train_samples=len(rows),
        train_tokens=len(stream),
        train_documents=len(train),
        holdout_documents=len(held),
        holdout_clusters=len({row.document.cluster for row in held}),
        holdout_tokens=sum(len(row.tokens) + 2 for row in held),
        source_names=tuple(sorted({row.document.source for row in (*train, *held)})),
        licences=tuple(sorted({row.document.licence for row in (*train, *held)})),
    )
    return PackedDomain(
        slice=packed,
        files=files,
        first_tokens=_first_tokens(documents, framing),
        unigram=count_targets(stream, framing),
    )


def _first_tokens(documents: Sequence[TokenizedDocument], framing: Framing) -> np.ndarray:
    """Where each document starts in the training stream; -1 for those that are not in it."""
    in_train = np.array([row.split == "train" for row in documents], bool)
    lengths = np.array([framed_length(len(row.tokens), framing) for row in documents], np.int64)
    ends = np.cumsum(np.where(in_train, lengths, 0))
    return np.where(in_train, ends - lengths, -1)


def _holdout_row(row: TokenizedDocument, framing: Framing) -> HoldoutDocument:
    """The framed row; the end token is there also where the start token is the same."""
    return HoldoutDocument(
        document=row.document.id,
        cluster=row.document.cluster,
        tokens=np.concatenate([[framing.start_id], row.tokens, [framing.end_id]]),
        text_bytes=row.text_bytes,
    )
