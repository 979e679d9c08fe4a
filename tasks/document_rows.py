"""Rows of the tables of documents of a lineage, found by what is asked for."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.layout import Layout
from storage.manifest import FileDigest, fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named, find_file
from storage.snapshots import DOCUMENTS, SnapshotManifest
from tasks.curation.annotation_table import (
    ANNOTATIONS,
    digests_delivered,
    documents_delivered_as,
)


@dataclass(frozen=True, slots=True)
class DocumentTables:
    """The tables of documents of a lineage, each verified when it is first read."""

    store: ObjectStore
    layout: Layout
    directory: Path
    """For local copies."""
    _verified: dict[str, Path] = field(default_factory=dict[str, Path])

    def rows(
        self,
        manifest: SnapshotManifest,
        columns: Sequence[str],
        *,
        names: Iterable[str] = (),
        contents: Collection[bytes] = (),
        places: Iterable[int] = (),
        made_of: Iterable[str] = (),
    ) -> dict[int, Mapping[str, Any]]:
        """Rows of one snapshot by their place, in order.

        Args:
            manifest: Of the snapshot.
            columns: Wanted of each.
            names: Ids as the sources give them, or with the source's name before.
            contents: Digests of texts, as they were delivered or as the rules left them.
            places: Of rows.
            made_of: What a synthetic document names as what it was made of.

        Raises:
            CorruptError: A table is missing or altered.
        """
        asked, chosen, origins = set(names), set(places), list(made_of)
        if not (asked or contents or chosen or origins):
            return {}
        import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
        import pyarrow.compute  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        # Its functions are made when it is imported.
        compute: Any = pyarrow.compute
        needed = {*columns, "document", "content", "synthetic_of", "source"}
        table = pq.read_table(self._documents(manifest), columns=sorted(needed))
        asked.update(self._delivered_as(manifest, contents))
        sources = table["source"].unique().to_pylist()
        full = [name for given in asked for name in (given, *(f"{one}/{given}" for one in sources))]
        for column, values, kind in (
            ("document", full, pa.string()),
            ("content", list(contents), pa.binary(16)),
            ("synthetic_of", origins, pa.string()),
        ):
            if values:
                is_in = compute.is_in(table[column], value_set=pa.array(values, kind))
                chosen.update(compute.indices_nonzero(is_in).to_pylist())
        ordered = sorted(chosen)
        taken = table.select(list(columns)).take(pa.array(ordered, pa.int64())).to_pylist()
        return dict(zip(ordered, taken, strict=True))

    def digests(
        self, manifest: SnapshotManifest, documents: Mapping[str, bytes]
    ) -> dict[str, frozenset[bytes]]:
        """By document the digests that its text has: as it was delivered, as the rules left it.

        Args:
            manifest: Of the snapshot.
            documents: Digests as the table of documents has them, by id.
        """
        annotations = self._annotations(manifest) if documents else None
        delivered = digests_delivered(annotations, documents) if annotations else {}
        return {
            name: frozenset({content, delivered.get(name, content)})
            for name, content in documents.items()
        }

    def _documents(self, manifest: SnapshotManifest) -> Path:
        file = file_named(manifest.files, DOCUMENTS, f"snapshot {manifest.id}")
        return self._fetched(manifest, file, f"{manifest.id}.parquet")

    def _annotations(self, manifest: SnapshotManifest) -> Path | None:
        file = find_file(manifest.files, ANNOTATIONS)
        if file is None:
            return None
        return self._fetched(manifest, file, f"{manifest.id}-annotations.parquet")

    def _fetched(self, manifest: SnapshotManifest, file: FileDigest, name: str) -> Path:
        if name not in self._verified:
            prefix = self.layout.snapshot(manifest.id)
            self._verified[name] = fetch_verified(self.store, prefix, file, self.directory / name)
        return self._verified[name]

    def _delivered_as(self, manifest: SnapshotManifest, contents: Collection[bytes]) -> list[str]:
        path = self._annotations(manifest) if contents else None
        return documents_delivered_as(path, list(contents)) if path is not None else []
