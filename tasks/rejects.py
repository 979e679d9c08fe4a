"""The quarantine: what could not be read, where it stands and why, as ``rejects.jsonl.zst``."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from tasks.documents import Reject, printable


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

    @property
    def counts(self) -> dict[str, int]:
        """Rejects by reason, in alphabetical order."""
        return dict(sorted(self._counts.items()))
