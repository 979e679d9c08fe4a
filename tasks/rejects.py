"""The quarantine: what could not be read, where it stands and why, as ``rejects.jsonl.zst``."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from storage.layout import Layout
from storage.manifest import read_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import SnapshotManifest
from tasks.documents import Reject, printable

REJECTS = "rejects.jsonl.zst"
"""Name of the quarantine among a snapshot's files."""


class RejectWriter:
    """Writes rejects to a new local file, one JSON object a line, and counts them by reason.

    Use it as a context manager and hand ``add`` to ``read_objects``. Equal rejects in equal order
    give equal bytes, as content-addressed snapshots need. The file is complete after the block;
    after an exception it holds what was rejected until then.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._stream = zstandard.ZstdCompressor().stream_writer(self._file)
        self._counts: Counter[str] = Counter()
        self.first: Reject | None = None
        """The first that was rejected."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closes the file below it as well.
        self._stream.close()

    def add(self, reject: Reject) -> None:
        """Quarantine one line, row or file."""
        row = asdict(reject) | {"detail": printable(reject.detail)}
        self._stream.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        self._counts[reject.reason] += 1
        self.first = self.first or reject

    @property
    def counts(self) -> dict[str, int]:
        """Rejects by reason, in alphabetical order."""
        return dict(sorted(self._counts.items()))


def describe_rejects(counts: Mapping[str, int], first: Reject, *, documents_read: int) -> str:
    """One sentence for people: how many were rejected of how many, why, and where to look first.

    Args:
        counts: Rejects by reason.
        first: The first of them.
        documents_read: Documents that could be read, without the rejects.
    """
    num_rejected = sum(counts.values())
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_count)
    place = printable(Path(first.uri).name) + (f":{first.position}" if first.position else "")
    return (
        f"{num_rejected:,} of {documents_read + num_rejected:,} documents rejected ({reasons}; "
        f"first: {place})"
    )


def rejects_of(store: ObjectStore, layout: Layout, manifest: SnapshotManifest) -> str:
    """What was rejected when a snapshot was read, in one sentence; empty when nothing was.

    Raises:
        CorruptError: The quarantine is missing or altered.
    """
    if not manifest.lines_rejected:
        return ""
    prefix = layout.snapshot(manifest.id)
    file = file_named(manifest.files, REJECTS, f"snapshot {manifest.id}")
    body = io.BytesIO(read_verified(store, prefix, file))
    with zstandard.ZstdDecompressor().stream_reader(body) as stream:
        first = Reject(**json.loads(io.TextIOWrapper(stream, encoding="utf-8").readline()))
    told = describe_rejects(manifest.lines_rejected, first, documents_read=manifest.documents_read)
    return f"{told}; all of them: {prefix}/{REJECTS}"
