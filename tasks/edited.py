"""Edited versions of held-out documents, in files that came in place of others.

A document without an id of its own is known by its file and position. One line put in before it
moves it to another position, and there it would be another document: with its text edited as well,
nothing would tell that it was held out. So when a file was replaced, what was held out of it and is
not in it any more is looked for, and the document most like it takes its cluster.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from tasks.curate import content_digest
from tasks.documents import SourceObject
from tasks.ingest import names_of
from tasks.sources import SourceConfig
from tasks.spool import SpooledDocuments

_SHINGLE = 3
"""Tokens in a row. Three of them fit into 63 bits."""
_TOKEN_BITS = np.uint64(21)
_ALIKE = 0.4
"""Share of shingles in common (Jaccard) from which one text may be a version of another: what one
token in seven was changed of, or what became two and a half times as long."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A document that is held out of a file."""

    cluster: str
    content: bytes
    """16 bytes, ``content_digest`` of its text."""
    tokens: NDArray[np.integer]
    """Without framing."""


HeldOutOfFiles = Mapping[str, Sequence[HeldOut]]
"""By source and name of the file, as in the ids of its documents."""


def clusters_of_edited(documents: SpooledDocuments, held: HeldOutOfFiles) -> dict[int, str]:
    """Clusters of held-out documents by the row of their edited versions. Pure.

    A held-out document whose text is still in its file has no other version there; of the others
    each gives its cluster to one document of the file at most, the likeliest pairs first. The
    tokens of such files are in memory meanwhile.

    Args:
        documents: All of a refresh in canonical order, before they are split.
        held: What is held out of files that were replaced.
    """
    if not held:
        return {}
    rows_of: dict[str, list[int]] = {file: [] for file in sorted(held)}
    for row, name in enumerate(documents.table("document").column(0).to_pylist()):
        if (file := _file_of(name)) in rows_of:
            rows_of[file].append(row)
    contents = documents.keys("content")
    found: dict[int, str] = {}
    for file, rows in rows_of.items():
        present = {key.ljust(16, b"\0") for key in contents[rows].tolist()}
        missing = [one for one in held[file] if one.content not in present]
        kept = [row for row in rows if documents.is_kept[row]]
        tokens = documents.tokens_of(kept)
        for number, version in _versions([one.tokens for one in missing], tokens):
            found[kept[version]] = missing[number].cluster
    return found


def _versions(
    missing: Sequence[NDArray[np.integer]], kept: Sequence[NDArray[np.integer]]
) -> list[tuple[int, int]]:
    """Pairs of places of a missing document and of its version; no place twice on either side."""
    shingles = [_shingles(tokens) for tokens in kept]
    lengths = np.array([len(each) for each in shingles], np.int64)
    every = np.concatenate([np.empty(0, np.uint64), *shingles])
    order = np.argsort(every, kind="stable")
    every, owners = every[order], np.repeat(np.arange(len(kept)), lengths)[order]
    pairs: list[tuple[float, int, int]] = []
    for number, tokens in enumerate(missing):
        own = _shingles(tokens)
        starts, ends = np.searchsorted(every, own), np.searchsorted(every, own, side="right")
        among = [owners[start:end] for start, end in zip(starts, ends, strict=True) if start < end]
        common = np.bincount(np.concatenate([owners[:0], *among]), minlength=len(kept))
        likeness = common / np.maximum(1, lengths + len(own) - common)
        pairs += [
            (-float(likeness[place]), number, place)
            for place in np.flatnonzero(likeness >= _ALIKE).tolist()
        ]
    found: list[tuple[int, int]] = []
    numbers, places = set[int](), set[int]()
    for _, number, place in sorted(pairs):
        if number not in numbers and place not in places:
            found.append((number, place))
            numbers.add(number)
            places.add(place)
    return found


def _shingles(tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Sorted, each once; a text of fewer tokens than a shingle is one by itself."""
    length = min(_SHINGLE, len(tokens))
    found = np.zeros(len(tokens) - length + 1 if length else 0, np.uint64)
    for place in range(length):
        # One more, so that fewer tokens are no shingle that begins with zeros.
        found = (found << _TOKEN_BITS) + tokens[place : place + len(found)].astype(np.uint64)
        found += np.uint64(1)
    return np.unique(found)


def read_held_out(
    store: ObjectStore,
    layout: Layout,
    snapshots: Iterable[str],
    sources: Iterable[tuple[SourceConfig, tuple[SourceObject, ...]]],
    *,
    cache: FileCache,
    work_dir: Path,
) -> HeldOutOfFiles:
    """What is held out of the replaced files of ``sources``; reads nothing where there are none.

    With such files all holdout shards of the lineage are read, through the cache. Safe to retry.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        snapshots: Ids of what the lineage knows.
        sources: With the files that are to be read.
        cache: Of files of snapshots.
        work_dir: Existing local directory.

    Raises:
        CorruptError: A file of a snapshot is missing or altered.
    """
    files = {
        f"{source.name}/{names_of(source)(found.uri)}"
        for source, objects in sources
        if _goes_by_position(source)
        for found in objects
        if found.change == "replaced"
    }
    held: dict[str, list[HeldOut]] = {}
    if files:
        for snapshot in snapshots:
            _add_held_out(held, store, layout, snapshot, files, cache, work_dir)
    return held


def _add_held_out(
    held: dict[str, list[HeldOut]],
    store: ObjectStore,
    layout: Layout,
    snapshot: str,
    files: set[str],
    cache: FileCache,
    work_dir: Path,
) -> None:
    """Add what one snapshot holds out of the files."""
    from training.data.shards import MdsReader, read_holdout  # noqa: PLC0415  heavy
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    manifest = read_snapshot(store, layout, snapshot)
    folders = [f"{each.domain}/holdout" for each in manifest.domains if each.holdout_documents]
    readers = (
        MdsReader(store, layout.snapshot(snapshot), folder, manifest.files, cache)
        for folder in folders
    )
    found = [
        row
        for reader in readers
        for row in read_holdout(reader, token_dtype=manifest.token_dtype)
        if _file_of(row.document) in files
    ]
    if not found:
        return
    with TemporaryDirectory(dir=work_dir, prefix="held-out-") as scratch:
        tokenizer = fetch_tokenizer(store, manifest.tokenizer, Path(scratch))
    texts = tokenizer.encoder.decode_batch(
        [row.tokens[1:-1].tolist() for row in found], skip_special_tokens=True
    )
    for row, text in zip(found, texts, strict=True):
        one = HeldOut(row.cluster, content_digest(text), row.tokens[1:-1])
        held.setdefault(_file_of(row.document), []).append(one)


def _goes_by_position(source: SourceConfig) -> bool:
    """Whether a document of a file of many may be known by its position alone."""
    has_own = source.fields.id or source.fields.cluster
    return not has_own and source.cluster_by in ("document", "site")


def _file_of(document: str) -> str:
    """Source and file of an id that was made of file and position."""
    return document.rpartition("#")[0]
