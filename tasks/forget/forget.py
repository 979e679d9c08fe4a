"""Takedown: documents are blanked where they lie, kept out from then on, and searched for.

First a record says what is to be done (``storage.takedowns``). All that follows is found by that
record alone and may be done twice, so that whoever finds a record that was begun can finish it::

    index      snapshots without signatures get theirs while their texts are there
    rewrite    new files beside the old ones, then the manifest of each snapshot in one step
    commit     the head: suite, marked versions, the takedown
    purge      old files with all their versions, items, ledgers, pages, uploads, local copies
    show       MLflow
    search     everything, for passages of the texts and of their tokens
    end        the record loses the ids
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from storage.file_cache import FileCache
from storage.head import Head, commit_change, history, read_head
from storage.layout import Layout
from storage.lease import Lease
from storage.manifest import FileDigest, digest_file
from storage.near_duplicate_index import slots_of, unindexed
from storage.near_duplicate_segment import write_segment
from storage.objects import ObjectStore
from storage.takedowns import (
    SEGMENT_OWNER,
    Takedown,
    begin_takedown,
    begun_takedowns,
    end_takedown,
    kept_out,
)
from storage.taken_over import needed_updates
from storage.taking_down import with_takedown
from tasks.forget.find import Found, find
from tasks.forget.local import local_files, other_machines
from tasks.forget.passages import Passages
from tasks.forget.proof import Proof, added, search_files, search_store
from tasks.forget.snapshot import SCRATCH, keys_to_rewrite, rewrite_snapshot
from tasks.forget.suite import item_files_about, keys_of_items, rewrite_suite, tasks_that_quote
from tasks.forget.sweep import purge, remove_uncommitted
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.earlier import index_earlier
from tasks.update_plan import is_saved, load_plan
from tasks.who_saw import Sighting, who_saw

logger = logging.getLogger(__name__)

Show = Callable[[Head, Passages], Sequence[Proof]]
"""Makes MLflow show a head; returns what was found of passages there afterwards."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a takedown works."""

    store: ObjectStore
    layout: Layout
    near: NearDuplicateConfig | None
    """What counts as alike; None: only equal texts do."""
    work_dir: Path
    """Local, existing, of this lineage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a takedown would do."""

    found: Found
    sightings: tuple[Sighting, ...]
    tasks: tuple[str, ...]
    """Of the YAML, whose files quote a document."""
    machines: tuple[str, ...]
    """Others that may have local copies."""
    unindexed: int
    """Snapshots in which near copies were not looked for: they have no signatures yet."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Judged versions that saw any of it."""
        return versions_in(self.sightings)

    @property
    def replay(self) -> tuple[str, ...]:
        """Versions of the replay buffer that draw from its places."""
        return tuple(dict.fromkeys(name for one in self.sightings for name in one.replay))


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a takedown did."""

    takedown: Takedown
    head: Head
    proof: Proof
    machines: tuple[str, ...]
    """Others that may have local copies."""


def foresee(site: Site, head: Head, *, ids: Sequence[str], texts: Sequence[str]) -> Forecast:
    """What would be forgotten, and who saw it. Changes nothing.

    Raises:
        CorruptError: Something that has to be read is damaged.
        ValueError: The lineage has signatures of another kind than ``site.near``.
    """
    store, layout = site.store, site.layout
    found = find(store, layout, head, ids=ids, texts=texts, near=site.near, work_dir=site.work_dir)
    sightings = _seen(site, found)
    draft = _draft(layout, found, sightings, by="")
    return Forecast(
        found=found,
        sightings=sightings,
        tasks=tasks_that_quote(store, layout, draft, head.suite) if head.suite else (),
        machines=tuple(other_machines(store, layout)),
        unindexed=len(_unindexed(site)),
    )


def is_new(site: Site, forecast: Forecast) -> bool:
    """Whether there is anything to be forgotten that was not forgotten before."""
    found = forecast.found
    head = read_head(site.store, site.layout)
    known = kept_out(site.store, site.layout, head.takedowns if head else ()).contents
    return bool(found.documents) or not {*map(bytes.fromhex, found.contents)} <= known


def keys_to_replace(site: Site, forecast: Forecast) -> list[str]:
    """Objects that would be replaced or removed. Builds all of them, and changes nothing."""
    store, layout = site.store, site.layout
    draft = _draft(layout, forecast.found, forecast.sightings, by="")
    keys = [
        key
        for snapshot in draft.snapshots
        for key in keys_to_rewrite(store, layout, draft, snapshot, site.work_dir)
    ]
    keys += keys_of_items(store, layout, item_files_about(store, layout, draft))
    pages = [layout.refresh_report(snapshot) for snapshot in draft.snapshots]
    keys += [page for page in pages if store.exists(page)]
    keys += [layout.ledger(seen.update) for one in forecast.sightings for seen in one.learned]
    return list(dict.fromkeys(keys))


def begin(site: Site, lease: Lease, forecast: Forecast, *, by: str) -> Takedown:
    """Put on record what is to be forgotten; ``finish`` does it. Safe to retry.

    Raises:
        ValueError: An unfinished update learns from it; says what to do first.
    """
    takedown = _draft(site.layout, forecast.found, forecast.sightings, by=by)
    takedown = replace(takedown, tasks=forecast.tasks)
    _check_no_update(site, takedown)
    lease.check()
    takedown = replace(takedown, signatures=_keep_signatures(site, forecast.found))
    begin_takedown(site.store, site.layout, takedown)
    return takedown


def unfinished(site: Site) -> list[Takedown]:
    """Takedowns that somebody has begun and not finished."""
    return begun_takedowns(site.store, site.layout)


def finish(
    site: Site, lease: Lease, takedown: Takedown, *, by: str, show: Show = lambda *_: ()
) -> Done:
    """Do what the record of a takedown says. Safe to retry after any crash.

    Args:
        site: Where.
        lease: Held by the caller; an update that is unfinished stays so.
        takedown: That was begun.
        by: Who, for the head.
        show: Makes MLflow show a head.

    Raises:
        LeaseLostError: The lease was taken over.
        CorruptError: Something that has to be read is damaged.
    """
    store, layout = site.store, site.layout
    lease.set_note(f"forget {takedown.id}", unfinished=lease.unfinished)
    index_all(site)
    remove_uncommitted(store, layout)
    for snapshot in takedown.snapshots:
        rewrite_snapshot(store, layout, takedown, snapshot, site.work_dir)
    lease.check()
    head = _commit(site, takedown, by=by, lease_token=lease.token)
    purge(store, layout, takedown, site.work_dir)
    passages = Passages(takedown.windows)
    elsewhere = show(head, passages)
    proof = added(
        [
            search_store(store, layout.root, passages),
            search_files(local_files(site.work_dir), passages),
            *elsewhere,
        ]
    )
    lease.check()
    end_takedown(store, layout, takedown)
    return Done(
        takedown=takedown,
        head=head,
        proof=proof,
        machines=tuple(other_machines(store, layout)),
    )


def _keep_signatures(site: Site, found: Found) -> FileDigest | None:
    """A segment of the texts, which no snapshot that counts need have. Safe to retry."""
    if found.signatures is None or site.near is None:
        return None
    signatures = found.signatures
    rows = np.flatnonzero(~signatures.is_empty)
    name = f"signatures/{found.id}.bin"
    with TemporaryDirectory(dir=site.work_dir, prefix=SCRATCH) as scratch:
        path = Path(scratch) / "segment"
        write_segment(
            path,
            site.near.scheme,
            f"{SEGMENT_OWNER}{found.id}",
            rows=rows.astype(np.uint32),
            keys=signatures.keys[rows],
            prints=signatures.prints[rows],
        )
        site.store.put_file(f"{site.layout.takedowns}/{name}", path)
        return digest_file(path, name)


def versions_in(sightings: Sequence[Sighting]) -> tuple[str, ...]:
    """Judged versions that saw any of these, each once."""
    return tuple(dict.fromkeys(seen.version for one in sightings for seen in one.versions))


def _seen(site: Site, found: Found) -> tuple[Sighting, ...]:
    names = sorted({one.document for one in found.documents})
    if not names:
        return ()
    heads = history(site.store, site.layout)
    return tuple(who_saw(site.store, site.layout, heads, ids=names, work_dir=site.work_dir))


def _draft(layout: Layout, found: Found, sightings: Sequence[Sighting], *, by: str) -> Takedown:
    return Takedown(
        id=found.id,
        lineage=layout.lineage,
        by=by,
        begun_at=datetime.now(UTC).isoformat(timespec="seconds"),
        documents=found.documents,
        contents=found.contents,
        windows=found.windows,
        versions=versions_in(sightings),
        quoting=found.quoting,
        too_short=found.too_short,
        unkept=tuple(text for _, text in sorted(found.unkept.items())),
    )


def _check_no_update(site: Site, takedown: Takedown) -> None:
    """Refuse to change what an update that was begun and not judged has learned from in part."""
    store, layout = site.store, site.layout
    head = read_head(store, layout)
    judged = {record.update for record in head.versions} if head else set[str]()
    for update in needed_updates(store, layout):
        if update in judged or not is_saved(store, layout, update):
            continue
        streams = load_plan(store, layout, update).train.mixture.streams
        affected = {one.snapshot for one in takedown.documents}
        touched = {stream.snapshot for stream in streams} & affected
        if touched:
            raise ValueError(
                f"update {update} of {layout.lineage} is unfinished and trains on snapshot "
                f"{sorted(touched)[0]}, which has such a document: finish it by 'perennial "
                "update', or change the YAML and discard it by 'perennial update --take-over "
                "nothing', then forget; nothing was changed"
            )


def _unindexed(site: Site) -> list[str]:
    """Snapshots that were minted without signatures."""
    if site.near is None:
        return []
    return unindexed(site.store, site.layout, slots_of(read_head(site.store, site.layout)))


def index_all(site: Site) -> None:
    """Make signatures of what was minted without: once its text is gone, none could be made.

    Done before anything is looked for, near copies are found there as well. Safe to retry.
    """
    cache = FileCache(site.work_dir / "snapshots")
    for snapshot in _unindexed(site):
        assert site.near is not None  # or nothing is looked at
        index_earlier(
            site.store,
            site.layout,
            snapshot,
            site.near.scheme,
            cache=cache,
            work_dir=site.work_dir,
        )


def _commit(site: Site, takedown: Takedown, *, by: str, lease_token: int) -> Head:
    documents = sum(one.split != "dropped" for one in takedown.documents)
    snapshots = {one.snapshot for one in takedown.documents}
    reason = (
        f"takedown {takedown.id}: {documents:,} documents in {len(snapshots):,} "
        f"snapshots, seen by {len(takedown.versions):,} versions"
    )

    def change(head: Head | None) -> Head:
        assert head is not None  # what is taken down was committed once
        if takedown.id in head.takedowns:
            return head
        suite = head.suite
        if suite is not None:
            suite = rewrite_suite(site.store, site.layout, takedown, suite).id
        return with_takedown(
            head,
            takedown.id,
            saw=takedown.versions,
            suite=suite,
            by=by,
            reason=reason,
            lease_token=lease_token,
        )

    return commit_change(site.store, site.layout, change)
