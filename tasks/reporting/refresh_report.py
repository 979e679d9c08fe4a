"""The page of a refresh, made from the snapshot that it minted and from nothing else."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.layout import Layout
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named, find_file
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot_manifest
from tasks.build import CONSUMED
from tasks.curation.annotation_table import ANNOTATIONS
from tasks.reading.growth import read_mark
from tasks.rejects import REJECTS
from tasks.reporting.refresh_evidence import read_excerpts, read_leaks, read_rejects
from tasks.reporting.refresh_facts import read_documents
from tasks.reporting.refresh_page import RefreshPage, render
from tasks.sift import EXAMPLES, LEAKS


def write_refresh_report(store: ObjectStore, layout: Layout, snapshot: str, work_dir: Path) -> str:
    """Make the page of the refresh that minted ``snapshot``; returns its key.

    The same snapshot gives the same bytes, which replace what is there. Safe to retry.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        snapshot: Its id.
        work_dir: Existing local directory for temporary files.

    Raises:
        NotFoundError: There is no such snapshot.
        CorruptError: The snapshot is altered, or not whole.
    """
    manifest = read_snapshot_manifest(store, layout, snapshot)
    with TemporaryDirectory(dir=work_dir, prefix="report-") as scratch:
        html = render(_read(store, layout, manifest, Path(scratch)))
    key = layout.refresh_report(snapshot)
    store.put(key, html.encode())
    return key


def _read(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest, scratch: Path
) -> RefreshPage:
    prefix = layout.snapshot(manifest.id)

    def fetched(name: str) -> Path:
        file = file_named(manifest.files, name, f"snapshot {manifest.id}")
        return fetch_verified(store, prefix, file, scratch / name)

    def if_there(name: str) -> Path | None:
        return fetched(name) if find_file(manifest.files, name) is not None else None

    leaks, examples = if_there(LEAKS), if_there(EXAMPLES)
    marks = json.loads(fetched(CONSUMED).read_bytes())
    return RefreshPage(
        manifest=manifest,
        facts=read_documents(fetched(DOCUMENTS), if_there(ANNOTATIONS)),
        rejects=read_rejects(fetched(REJECTS)),
        leaks=read_leaks(leaks) if leaks else {},
        excerpts=read_excerpts(examples) if examples else {},
        files_read=len(marks),
        source_bytes=_source_bytes(marks),
    )


def _source_bytes(marks: dict[str, str]) -> int | None:
    """Bytes of the files as they lay there; None where a bucket's entity tags do not tell."""
    etags = [read_mark(mark)[0] for uri, mark in marks.items() if uri.startswith("/")]
    if len(etags) < len(marks):
        return None
    return sum(int(etag.partition("-")[0]) for etag in etags)
