"""Who saw a document: where it lies, which updates learned from it, which versions grew from them.

The ledgers say what each update was trained on; what came before it, from whatever trunk, merge or
update that it took over, it knows as well.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.ledger import exposures_of
from storage.objects import ObjectStore
from storage.replay import ReplayManifest, read_replay
from storage.snapshots import SnapshotManifest, read_snapshot_manifest
from storage.takedowns import FORGOTTEN
from tasks.ancestors import Ancestors
from tasks.curate import content_digest
from tasks.curation.normalise import as_given, normalise
from tasks.document_rows import DocumentTables
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.find import find_near
from tasks.twins import NearTwins, Place, near_twins

_COLUMNS = (
    "document", "content", "source", "uri", "position", "domain", "time", "split", "reason",
)  # fmt: skip


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
    twin_of: str = ""
    """A document that was asked for and dropped, whose text this one equals or nearly repeats; ""
    for what was asked for itself."""


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

    Behind them what those of them that were dropped repeat: their texts were learned there.
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
    cache = FileCache(work_dir / "snapshots")
    if near is not None and normal:
        alike = find_near(store, layout, head, normal, near, cache=cache)
    known = Ancestors(store, layout, head)
    replays = [read_replay(store, layout, version) for version in _replay_versions(heads)]
    tables = DocumentTables(store, layout, work_dir / "documents")
    manifests = {
        record.id: read_snapshot_manifest(store, layout, record.id) for record in head.snapshots
    }
    rows: dict[Place, dict[str, Any]] = {}
    for snapshot, manifest in manifests.items():
        listed = tables.rows(manifest, _COLUMNS, names=ids, contents=contents)
        rows |= {(snapshot, row): {**values, "likeness": 1.0} for row, values in listed.items()}
        others = {row: near for row, near in alike.get(snapshot, {}).items() if row not in listed}
        for row, values in tables.rows(manifest, _COLUMNS, places=others).items():
            rows[snapshot, row] = {**values, "likeness": round(others[row], 3)}
    dropped = {
        place: row
        for place, row in rows.items()
        if row["split"] == "dropped" and row["reason"] != FORGOTTEN and row["likeness"] == 1
    }
    rows |= _equal_to(tables, manifests, dropped, rows)
    if near is not None:
        twins = near_twins(store, layout, head, manifests, dropped, near, cache=cache)
        rows |= _near_to(tables, manifests, dropped, twins, rows)
    ledgers = exposures_of(store, layout, {row["document"] for row in rows.values()})
    states = {record.id: record.state for record in head.snapshots}
    found: list[Sighting] = []
    for (snapshot, _), row in rows.items():
        row.pop("content")
        learned = tuple(
            Learned(update=seen.update, exposures=seen.row.exposures, tokens=seen.row.tokens)
            for seen in ledgers[row["document"]]
            if (seen.row.snapshot, seen.row.domain) == (snapshot, row["domain"])
        )
        found.append(
            Sighting(
                snapshot=snapshot,
                state=states[snapshot],
                learned=learned,
                versions=_that_saw(known, head, {one.update for one in learned}),
                replay=_drawing_from(replays, snapshot, row),
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


def _equal_to(
    tables: DocumentTables,
    manifests: Mapping[str, SnapshotManifest],
    dropped: Mapping[Place, Mapping[str, Any]],
    listed: Collection[Place],
) -> dict[Place, dict[str, Any]]:
    """Rows, not listed yet, with the text of a document that was dropped."""
    names: dict[bytes, str] = {}
    for (snapshot, _), row in dropped.items():
        own = tables.digests(manifests[snapshot], {row["document"]: row["content"]})
        name: str = row["document"]
        names |= dict.fromkeys(own[name], name)
    found: dict[Place, dict[str, Any]] = {}
    for snapshot, manifest in manifests.items() if names else ():
        rows = tables.rows(manifest, _COLUMNS, contents=names)
        by_name = {row["document"]: row["content"] for row in rows.values()}
        digests = tables.digests(manifest, by_name)
        for place, row in rows.items():
            if (snapshot, place) not in listed:
                twin = next(names[one] for one in sorted(digests[row["document"]]) if one in names)
                found[snapshot, place] = {**row, "likeness": 1.0, "twin_of": twin}
    return found


def _near_to(
    tables: DocumentTables,
    manifests: Mapping[str, SnapshotManifest],
    dropped: Mapping[Place, Mapping[str, Any]],
    twins: Mapping[Place, NearTwins],
    listed: Collection[Place],
) -> dict[Place, dict[str, Any]]:
    """Rows, not listed yet, that a document that was dropped nearly repeats."""
    found: dict[Place, dict[str, Any]] = {}
    for place, twin in twins.items():
        for (snapshot, row), likeness in sorted(twin.likeness.items()):
            # What was taken down is in the index as well, and in no snapshot.
            if snapshot in manifests and (snapshot, row) not in listed:
                values = tables.rows(manifests[snapshot], _COLUMNS, places=[row])[row]
                more = {"likeness": round(likeness, 3), "twin_of": dropped[place]["document"]}
                found[snapshot, row] = {**values, **more}
    return found
