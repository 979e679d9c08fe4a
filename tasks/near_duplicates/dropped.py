"""The signatures of what was dropped for nearly repeating an earlier document.

No refresh reads them: they are no part of the index. The text of such a document was not kept, so
when somebody asks what it is like, its signature is all there is to look for.
"""

from array import array
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.near_duplicate_index import SEGMENT
from storage.near_duplicate_segment import Segment, SignatureScheme, write_segment
from storage.objects import ObjectStore
from storage.revised import find_file
from storage.snapshots import SnapshotManifest
from tasks.near_duplicates.signature_files import SignatureFiles
from tasks.near_duplicates.signatures import Signatures

DROPPED_SEGMENT = "near-duplicates-dropped.bin"
"""Name among a snapshot's files; snapshots of which nothing was dropped so have none."""


class DroppedSignatures:
    """Takes the signatures of dropped documents; memory grows by 4 bytes a document.

    Args:
        scheme: Of the signatures.
        directory: Existing local directory for temporary files.
    """

    def __init__(self, scheme: SignatureScheme, directory: Path) -> None:
        self._scheme = scheme
        self._files = SignatureFiles(directory, "dropped")
        self._rows = array("I")

    def add(self, signatures: Signatures, rows: NDArray[np.int64]) -> None:
        """Add documents, by their rows in the table of all, ascending."""
        self._rows.extend(rows.tolist())
        if len(rows):
            self._files.append(signatures.keys, signatures.prints)

    def write(self, path: Path, snapshot: str) -> None:
        """Write what was added as a segment of ``snapshot``; no file when nothing was."""
        if not self._rows:
            return
        keys, prints = self._files.mapped()
        write_segment(
            path,
            self._scheme,
            snapshot,
            rows=np.array(self._rows, np.uint32),
            keys=keys,
            prints=prints,
        )


def signatures_of_rows(
    store: ObjectStore,
    layout: Layout,
    manifest: SnapshotManifest,
    rows: Collection[int],
    scheme: SignatureScheme,
    cache: FileCache,
) -> dict[int, Signatures]:
    """The signatures that a snapshot has of documents, kept or dropped, one by row.

    Those of documents that were dropped before near-duplicates were looked for, or by a refresh
    that did not look or kept none, are missing.

    Args:
        store: Where the snapshot lies.
        layout: Of its lineage.
        manifest: Of the snapshot.
        rows: Of its table of documents.
        scheme: Of the signatures that are wanted; others cannot be compared, and are left out.
        cache: Through which files are read.

    Raises:
        CorruptError: A segment is missing or altered.
    """
    found: dict[int, Signatures] = {}
    for name in (SEGMENT, DROPPED_SEGMENT):
        file = find_file(manifest.files, name)
        if file is None:
            continue
        prefix = layout.snapshot(manifest.id)
        mapped = cache.open(store, prefix, file)
        segment = Segment(memoryview(mapped), f"{prefix}/{file.name}")
        if segment.scheme != scheme:
            continue
        ordinals = np.flatnonzero(np.isin(segment.rows, list(rows)))
        for ordinal, row in zip(ordinals.tolist(), segment.rows[ordinals].tolist(), strict=True):
            found[row] = _signature(segment, ordinal)
    return found


def _signature(segment: Segment, ordinal: int) -> Signatures:
    """The signature of one document, whose keys lie where those of all are sorted."""
    keys = np.empty((1, segment.scheme.bands), np.uint32)
    for number in range(segment.scheme.bands):
        of_band, ordinals = segment.band(number)
        keys[0, number] = of_band[np.flatnonzero(ordinals == ordinal)[0]]
    # Copies, so that nothing holds the segment.
    return Signatures(keys, segment.prints[ordinal][None].copy(), np.zeros(1, np.bool_))
