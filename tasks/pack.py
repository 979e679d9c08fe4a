"""Tokenised documents of one domain become training rows, held-out rows and their shards.

Training documents are framed, concatenated in canonical order and cut into rows of
``seq_len + 1`` tokens that overlap by one, so that every token but the first is a target once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.manifest import FileDigest
from storage.snapshots import DomainSlice
from tasks.framing import Framing, framed_length
from tasks.settle import Settled
from tasks.split import HOLDOUT, TRAIN
from tasks.spool import SpooledDocuments
from training.data.holdout import HoldoutDocument
from training.shard_writer import write_holdout_shards, write_train_shards

if TYPE_CHECKING:
    pass

_TOKENS_AT_ONCE = 1 << 21
"""Of a domain in memory, or one document where that is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedDomain:
    """What packing one domain gives."""

    slice: DomainSlice
    files: tuple[FileDigest, ...]
    """Named relative to the snapshot."""
    unigram: np.ndarray
    """``int64[vocab_size]``: see ``count_targets``."""


def token_stream(documents: Sequence[np.ndarray], framing: Framing) -> np.ndarray:
    """All ``documents`` framed and concatenated, ``token_dtype[N]``.

    Where one token opens and closes, the next document's opening closes the one before.
    """
    start = np.array([framing.start_id], framing.token_dtype)
    end = np.array([framing.end_id][: framing.start_id != framing.end_id], framing.token_dtype)
    pieces = [piece for tokens in documents for piece in (start, tokens, end)]
    return np.concatenate(pieces or [end[:0]], dtype=framing.token_dtype, casting="same_kind")


def row_blocks(
    pieces: Iterable[np.ndarray], framing: Framing, seq_len: int
) -> Iterator[np.ndarray]:
    """Cut the stream that ``pieces`` make up into rows, ``[rows, seq_len + 1]`` a block.

    Row k starts at token ``k * seq_len`` and ends with the first token of row k + 1; the last one
    is padded with the start token. A stream of one token has no target and gives no row.
    """
    held = np.empty(0, framing.token_dtype)
    for piece in pieces:
        held = np.concatenate([held, piece])
        num_rows = max(len(held) - 1, 0) // seq_len
        if num_rows:
            yield _rows(held[: num_rows * seq_len + 1], seq_len)
            held = held[num_rows * seq_len :]
    if len(held) > 1:
        padded = np.full(seq_len + 1, framing.start_id, framing.token_dtype)
        padded[: len(held)] = held
        yield padded[None]


def _rows(stream: np.ndarray, seq_len: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(stream, seq_len + 1)[::seq_len]


def count_targets(stream: np.ndarray, framing: Framing) -> np.ndarray:
    """How often each token is something to predict in a training stream, ``int64[vocab_size]``.

    The tokens of the texts and one end token a document: what the unigram model is made of that
    the first version of a lineage has to beat.
    """
    counts = np.bincount(stream, minlength=framing.vocab_size)
    if framing.start_id != framing.end_id:
        counts[framing.start_id] = 0
    return counts


def pack_domain(
    documents: SpooledDocuments,
    domain: int,
    settled: Settled,
    framing: Framing,
    *,
    seq_len: int,
    directory: Path,
) -> PackedDomain:
    """Write the shards of one domain below ``directory`` / its name, which must not exist.

    Args:
        documents: Of all domains.
        domain: Place of its name.
        settled: Where each goes.
        framing: Of the lineage's tokenizer.
        seq_len: Inputs of a sample.
        directory: Local directory that stands for the snapshot.
    """
    name = documents.domain_names[domain]
    is_train, is_held = settled.splits == TRAIN, settled.splits == HOLDOUT
    stream = _Stream(documents, domain, is_train, framing)
    files = write_train_shards(
        row_blocks(stream.pieces(), framing, seq_len),
        directory / name / "train",
        seq_len=seq_len,
        token_dtype=framing.token_dtype,
        prefix=f"{name}/train",
    )
    held_rows = np.flatnonzero(is_held & (documents.domains == domain))
    held = documents.table("document", "cluster", "text_bytes").take(held_rows).to_pylist()
    for row, described in zip(held_rows.tolist(), held, strict=True):
        described["cluster"] = settled.edited.get(row, described["cluster"])
    files += write_holdout_shards(
        _holdout_rows(documents, domain, is_held, held, framing),
        directory / name / "holdout",
        token_dtype=framing.token_dtype,
        prefix=f"{name}/holdout",
    )
    kept = np.flatnonzero((is_train | is_held) & (documents.domains == domain))
    named = documents.table("source", "licence").take(kept)
    packed = DomainSlice(
        domain=name,
        train_samples=-(-max(stream.num_tokens - 1, 0) // seq_len),
        train_tokens=stream.num_tokens,
        train_documents=int((is_train & (documents.domains == domain)).sum()),
        holdout_documents=len(held),
        holdout_clusters=len({row["cluster"] for row in held}),
        holdout_tokens=int(documents.lengths[held_rows].sum()) + 2 * len(held),
        source_names=tuple(sorted(named["source"].unique().to_pylist())),
        licences=tuple(sorted(named["licence"].unique().to_pylist())),
    )
    return PackedDomain(slice=packed, files=files, unigram=stream.unigram)


def first_tokens(
    documents: SpooledDocuments, splits: NDArray[np.int8], framing: Framing
) -> NDArray[np.int64]:
    """Where each document starts in the training stream of its domain; -1 where it is not in it."""
    lengths = np.where(splits == TRAIN, framed_length(documents.lengths, framing), 0)
    found = np.full(len(documents), -1, np.int64)
    for domain in range(len(documents.domain_names)):
        inside = np.flatnonzero((documents.domains == domain) & (splits == TRAIN))
        found[inside] = np.cumsum(lengths[inside]) - lengths[inside]
    return found


class _Stream:
    """The training stream of a domain, and what is counted as it passes by."""

    def __init__(
        self,
        documents: SpooledDocuments,
        domain: int,
        wanted: NDArray[np.bool_],
        framing: Framing,
    ) -> None:
        self._documents, self._domain, self._wanted = documents, domain, wanted
        self._framing = framing
        self.num_tokens = 0
        self.unigram = np.zeros(framing.vocab_size, np.int64)

    def pieces(self) -> Iterator[np.ndarray]:
        """Whole documents, framed; once."""
        for rows, tokens in self._documents.tokens(self._domain, self._wanted, _TOKENS_AT_ONCE):
            ends = np.cumsum(self._documents.lengths[rows])
            piece = token_stream(np.split(tokens, ends[:-1]), self._framing)
            self.num_tokens += len(piece)
            self.unigram += count_targets(piece, self._framing)
            yield piece


def _holdout_rows(
    documents: SpooledDocuments,
    domain: int,
    is_held: NDArray[np.bool_],
    held: Sequence[dict[str, Any]],
    framing: Framing,
) -> Iterator[HoldoutDocument]:
    """The framed rows; the end token is there also where the start token is the same."""
    described = iter(held)
    for rows, tokens in documents.tokens(domain, is_held, _TOKENS_AT_ONCE):
        ends = np.cumsum(documents.lengths[rows])
        for own in np.split(tokens, ends[:-1]):
            row = next(described)
            yield HoldoutDocument(
                document=row["document"],
                cluster=row["cluster"],
                tokens=np.concatenate([[framing.start_id], own, [framing.end_id]]),
                text_bytes=row["text_bytes"],
            )
