"""What a takedown removes once nothing names it any more."""

from datetime import UTC, datetime
from pathlib import Path

from storage.head import history
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest
from storage.takedowns import Takedown
from tasks.forget.local import clear_local
from tasks.forget.names import rename_in_ledgers
from tasks.forget.pages import rewrite_pages
from tasks.forget.passages import Passages
from tasks.forget.proof import Proof, search_store
from tasks.forget.snapshot import purge_snapshot
from tasks.forget.suite import item_files_about, keys_of_items


def remove_uncommitted(store: ObjectStore, layout: Layout) -> None:
    """Remove what refreshes have left that were killed: nobody commits it any more.

    A refresh that starts again reads the sources again, on another state of the lineage.
    """
    committed = {record.id for head in history(store, layout) for record in head.snapshots}
    found = {version.key for version in store.list_versions(layout.snapshots)}
    # Manifests go first, so that a half-removed snapshot never reads as whole.
    for key in sorted(found, key=lambda key: (not key.endswith("/manifest.json"), key)):
        if key.removeprefix(f"{layout.snapshots}/").split("/")[0] not in committed:
            store.purge(key)


def purge_older(store: ObjectStore, prefix: str, passages: Passages) -> Proof:
    """Remove what objects were before where any version of them has passages, and search the rest.

    Safe to retry. What can be read under a key stays.
    """
    proof = search_store(store, prefix, passages)
    if not proof.places:
        return proof
    for key in {place.where for place in proof.places}:
        store.purge(key, keep_newest=True)
    return search_store(store, prefix, passages)


def purge(store: ObjectStore, layout: Layout, takedown: Takedown, work_dir: Path) -> None:
    """Remove what a takedown has replaced, with all its versions. Safe to retry after any crash.

    The snapshots must be rewritten and the head committed.
    """
    from tasks.reporting.refresh_report import write_refresh_report  # noqa: PLC0415  jinja2

    for snapshot in takedown.snapshots:
        purge_snapshot(store, layout, read_snapshot_manifest(store, layout, snapshot))
        if store.exists(layout.refresh_report(snapshot)):
            # It names places of documents, so that blanking what it quotes is not enough.
            write_refresh_report(store, layout, snapshot, work_dir)
            store.purge(layout.refresh_report(snapshot), keep_newest=True)
    for key in keys_of_items(store, layout, item_files_about(store, layout, takedown)):
        store.purge(key)
    rename_in_ledgers(store, layout, takedown, work_dir)
    rewrite_pages(store, layout, takedown)
    store.abort_uploads(layout.root, older_than=datetime.now(UTC).timestamp())
    clear_local(work_dir, Passages(takedown.windows))
