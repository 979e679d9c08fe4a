"""Who saw a document: where it lies, which updates learned from it, which versions grew from them.

The ledgers say what each update was trained on; what came before it, from whatever trunk, merge or
update that it took over, it knows as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.file_cache import FileCache
from storage.head import Head, SnapshotRecord
from storage.layout import Layout
from storage.ledger import exposures_of
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.replay import ReplayManifest, read_replay
from storage.revised import original_name
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot_manifest
from tasks.ancestors import Ancestors
from tasks.curate import content_digest
from tasks.curation.annotation_table import ANNOTATIONS, documents_delivered_as
from tasks.curation.normalise import as_given, normalise
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.find import find_near

_COLUMNS = ("document", "source", "uri", "position", "domain", "time", "split", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """That one update was trained on the document."""

    update: str
    exposures: int
    """Times seen."""
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBy:
    """A judged version that knows the document."""

    version: str
    decision: str
    """What became of it: published, refused, ..."""
    updates: tuple[str, ...]
    """By which it came to know it; not its own where it grew from one that knew it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One place where the document lies, or was found and dropped, and who saw it there."""

    snapshot: str
    state: str
    """Of the snapshot: pending, learned, held, refused."""
    document: str
    source: str
    uri: str
    position: int
    """Line or row, from 1; 0 when the file is the document."""
    domain: str
    time: str
    split: str
    """train, holdout or dropped."""
    reason: str
    """Why it was dropped."""
    learned: tuple[Learned, ...]
    versions: tuple[SeenBy, ...]
    """In the order in which they were judged; the champion may be among them."""
    replay: tuple[str, ...]
    """Versions of the replay buffer that draw from its domain of this snapshot."""
    likeness: float
    """Jaccard similarity to a text that was asked for, estimated; 1 for what was asked for."""


def who_saw(
    store: ObjectStore,
    layout: Layout,
    heads: Sequence[Head],
    *,
    ids: Sequence[str] = (),
    texts: Sequence[str] = (),
    near: NearDuplicateConfig | None = None,
    work_dir: Path,
) -> list[Sighting]:
    """Every place of the documents asked for, in all snapshots, in the order of these.

    Reads the tables of documents of all snapshots and, of what was found, all ledgers. Changes
    nothing.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        heads: All of them, oldest first.
        ids: Ids as the sources give them, or with the source's name before: ``web/17``.
        texts: Texts as they were delivered; what differs only as ``tasks.curation.normalise`` makes
            it does not differ.
        near: Documents that repeat most of a text are found as well; None: only equal ones are.
        work_dir: For local copies of tables.

    Raises:
        CorruptError: A table, a ledger or a manifest is damaged.
        ValueError: The lineage has signatures of another kind than ``near``.
    """
    if not heads:
        return []
    head = heads[-1]
    normal = [normalise(text) for text in texts]
    contents = [content_digest(each) for text in texts for each in sorted(as_given(text))]
    alike: dict[str, dict[int, float]] = {}
    if near is not None and normal:
        cache = FileCache(work_dir / "snapshots")
        alike = find_near(store, layout, head, normal, near, cache=cache)
    known = Ancestors(store, layout, head)
    replays = [read_replay(store, layout, version) for version in _replay_versions(heads)]
    rows: list[tuple[SnapshotRecord, dict[str, Any]]] = []
    for record in head.snapshots:
        manifest = read_snapshot_manifest(store, layout, record.id)
        near_rows = alike.get(record.id, {})
        listed = _rows(store, layout, manifest, ids, contents, near_rows, work_dir)
        rows += [(record, row) for row in listed]
    ledgers = exposures_of(store, layout, {row["document"] for _, row in rows})
    found: list[Sighting] = []
    for record, row in rows:
        learned = tuple(
            Learned(update=seen.update, exposures=seen.row.exposures, tokens=seen.row.tokens)
            for seen in ledgers[row["document"]]
            if (seen.row.snapshot, seen.row.domain) == (record.id, row["domain"])
        )
        found.append(
            Sighting(
                snapshot=record.id,
                state=record.state,
                learned=learned,
                versions=_that_saw(known, head, {one.update for one in learned}),
                replay=_drawing_from(replays, record.id, row),
                **row,
            )
        )
    return found


def _that_saw(known: Ancestors, head: Head, updates: set[str]) -> tuple[SeenBy, ...]:
    """The versions that know the text of any of ``updates``."""
    return tuple(
        SeenBy(version=record.version, decision=record.decision, updates=tuple(sorted(through)))
        for record in head.versions
        if (through := known.of_version(record) & updates)
    )


def _replay_versions(heads: Sequence[Head]) -> list[str]:
    """In the order in which they came."""
    return list(dict.fromkeys(head.replay for head in heads if head.replay))


def _drawing_from(
    replays: Sequence[ReplayManifest], snapshot: str, row: Mapping[str, Any]
) -> tuple[str, ...]:
    """Versions of the replay that may draw a document; none where it is not trained on."""
    if row["split"] != "train":
        return ()
    place = (snapshot, row["domain"])
    return tuple(
        replay.id
        for replay in replays
        if any(
            (stratum.snapshot, stratum.domain) == place and stratum.samples > 0
            for stratum in replay.strata
        )
    )


def _rows(
    store: ObjectStore,
    layout: Layout,
    manifest: SnapshotManifest,
    ids: Sequence[str],
    contents: Sequence[bytes],
    alike: Mapping[int, float],
    work_dir: Path,
) -> Iterator[dict[str, Any]]:
    """What a snapshot's table of documents says of those that are asked for."""
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    files = {original_name(file.name): file for file in manifest.files}
    prefix, folder = layout.snapshot(manifest.id), work_dir / "documents"
    path = fetch_verified(store, prefix, files[DOCUMENTS], folder / f"{manifest.id}.parquet")
    edited: list[str] = []
    if contents and ANNOTATIONS in files:
        local = folder / f"{manifest.id}-annotations.parquet"
        annotations = fetch_verified(store, prefix, files[ANNOTATIONS], local)
        edited = documents_delivered_as(annotations, contents)
    sources = pq.read_table(path, columns=["source"])["source"].unique().to_pylist()
    names = [name for given in ids for name in (given, *(f"{one}/{given}" for one in sources))]
    wanted = [[("document", "in", names + edited)], [("content", "in", contents)]]
    # Arrow cannot tell the type of an empty list.
    filters = [each for each in wanted if each[0][2]]
    columns = list(_COLUMNS)
    found = pq.read_table(path, columns=columns, filters=filters).to_pylist() if filters else []
    yield from ({**row, "likeness": 1.0} for row in found)
    if alike:
        known = {row["document"] for row in found}
        rows = pq.read_table(path, columns=columns).take(sorted(alike)).to_pylist()
        for number, row in zip(sorted(alike), rows, strict=True):
            if row["document"] not in known:
                yield {**row, "likeness": round(alike[number], 3)}
