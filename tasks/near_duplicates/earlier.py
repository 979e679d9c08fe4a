"""Signatures of what a snapshot holds, made of its tokens: for one minted without them.

A tokenizer that gives texts back unchanged, as byte-level BPE does, gives the signatures that the
refresh would have made. One that does not gives those of the text that was trained on.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.manifest import fetch_verified
from storage.near_duplicate_index import SEGMENT, add_segment
from storage.near_duplicate_segment import SignatureScheme, write_segment
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot
from tasks.near_duplicates.signatures import Signatures, signatures_of

if TYPE_CHECKING:
    from training.data.shards import TrainShards
    from training.tokenizer import Tokenizer

_BATCH_DOCUMENTS = 1000
_CHUNK_TOKENS = 1 << 20

Spelled: TypeAlias = Iterator[tuple[int, NDArray[Any]]]
"""Rows of the table of documents, with the tokens of their texts."""


def index_earlier(
    store: ObjectStore,
    layout: Layout,
    snapshot: str,
    scheme: SignatureScheme,
    *,
    cache: FileCache,
    work_dir: Path,
) -> None:
    """Add the segment of a snapshot that was made without one. Safe to retry after any crash.

    Decodes everything that it holds, which happens once. What was dropped then left no text, and is
    not found.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        snapshot: Its id.
        scheme: Of the signatures.
        cache: Through which shards are read.
        work_dir: Existing local directory.

    Raises:
        CorruptError: A file of the snapshot is missing or altered.
    """
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    manifest = read_snapshot(store, layout, snapshot)
    with TemporaryDirectory(dir=work_dir, prefix="index-") as scratch:
        directory = Path(scratch)
        tokenizer = fetch_tokenizer(store, manifest.tokenizer, directory / "tokenizer")
        spelled = _Shelf(store, layout, manifest, cache, directory).spelled()
        rows: list[int] = []
        signed: list[Signatures] = []
        while batch := list(islice(spelled, _BATCH_DOCUMENTS)):
            texts = _texts_of([tokens for _, tokens in batch], tokenizer)
            signed.append(signatures_of(texts, scheme))
            rows += [row for row, _ in batch]
        _write(directory / SEGMENT, scheme, snapshot, rows, signed)
        add_segment(store, layout, snapshot, directory / SEGMENT)


def _texts_of(tokens: list[NDArray[Any]], tokenizer: "Tokenizer") -> list[str]:
    pieces = [piece.tolist() for piece in tokens]
    return tokenizer.encoder.decode_batch(pieces, skip_special_tokens=True)


def _write(
    path: Path, scheme: SignatureScheme, snapshot: str, rows: list[int], signed: list[Signatures]
) -> None:
    """In the order of the table, without the documents that have no word."""
    empty = signatures_of([], scheme)
    keys = np.concatenate([empty.keys, *(item.keys for item in signed)])
    prints = np.concatenate([empty.prints, *(item.prints for item in signed)])
    is_empty = np.concatenate([empty.is_empty, *(item.is_empty for item in signed)])
    order = np.argsort(np.array(rows, np.int64), kind="stable")
    order = order[~is_empty[order]]
    write_segment(
        path,
        scheme,
        snapshot,
        rows=np.array(rows, np.uint32)[order],
        keys=keys[order],
        prints=prints[order],
    )


class _Shelf:
    """The documents of a snapshot, as tokens without framing."""

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        manifest: SnapshotManifest,
        cache: FileCache,
        directory: Path,
    ) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

        self._store, self._prefix, self._cache = store, layout.snapshot(manifest.id), cache
        self._manifest = manifest
        file = file_named(manifest.files, DOCUMENTS, f"snapshot {manifest.id}")
        path = fetch_verified(store, self._prefix, file, directory / DOCUMENTS)
        names = ["document", "domain", "split", "tokens", "first_token"]
        columns = pq.read_table(path, columns=names).to_pydict()
        self._documents, self._domains = columns["document"], np.array(columns["domain"], str)
        self._splits = np.array(columns["split"], str)
        self._lengths = np.array(columns["tokens"], np.int64)
        self._first_tokens = np.array(columns["first_token"], np.int64)

    def spelled(self) -> Spelled:
        """Everything that is trained on or held out, domain by domain."""
        for domain in self._manifest.domains:
            if domain.train_samples:
                yield from self._trained(domain.domain)
            if domain.holdout_documents:
                yield from self._held_out(domain.domain)

    def _trained(self, domain: str) -> Spelled:
        from training.data.shards import MdsReader, TrainShards  # noqa: PLC0415

        manifest = self._manifest
        reader = MdsReader(
            self._store, self._prefix, f"{domain}/train", manifest.files, self._cache
        )
        pieces = _pieces(TrainShards(reader, seq_len=manifest.seq_len))
        rows = np.flatnonzero((self._domains == domain) & (self._splits == "train"))
        # Where one token opens and closes a document, it closes none.
        closing = int(manifest.start_id != manifest.end_id)
        held, held_from = np.empty(0, np.int64), 0
        for row in rows[np.argsort(self._first_tokens[rows])].tolist():
            start = int(self._first_tokens[row])
            end = start + int(self._lengths[row])
            skipped = start - held_from
            # What a takedown has blanked may be longer than what is held.
            while skipped > len(held):
                skipped -= len(held)
                held = next(pieces)
            held, held_from = held[skipped:], start
            while held_from + len(held) < end:
                held = np.concatenate([held, next(pieces)])
            yield row, held[1 : end - start - closing]

    def _held_out(self, domain: str) -> Spelled:
        from training.data.shards import MdsReader, read_holdout  # noqa: PLC0415

        rows = np.flatnonzero((self._domains == domain) & (self._splits == "holdout")).tolist()
        row_of = {self._documents[row]: row for row in rows}
        reader = MdsReader(
            self._store, self._prefix, f"{domain}/holdout", self._manifest.files, self._cache
        )
        for held in read_holdout(reader, token_dtype=self._manifest.token_dtype):
            yield row_of[held.document], held.tokens[1:-1]


def _pieces(table: "TrainShards") -> Iterator[NDArray[Any]]:
    """The stream of training tokens, piece by piece."""
    num_rows = max(1, _CHUNK_TOKENS // table.seq_len)
    for first in range(0, len(table), num_rows):
        # A row's last token is the next one's first.
        yield table.rows(np.arange(first, min(first + num_rows, len(table))))[:, :-1].ravel()
    yield table.rows(np.array([len(table) - 1]))[:, -1]
