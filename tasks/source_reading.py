"""Reading the sources of a refresh in batches, and telling how far that is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from tasks.documents import Document, ReadPart, Reject, SourceObject
from tasks.ingest import RETRIED_REASONS, next_marks, read_items
from tasks.prepare import Batch, Prepared
from tasks.real_first import real_first
from tasks.refresh_progress import ReadingProgress, RefreshProgress
from tasks.rejects import RejectWriter
from tasks.sources import SourceConfig

SourceFiles: TypeAlias = tuple[tuple[SourceConfig, tuple[SourceObject, ...]], ...]
"""Sources in canonical order, each with its files to read."""

_BATCH_ITEMS = 512
_BATCH_CHARACTERS = 1 << 22


class SourceReading:
    """Reads all files once, from the first to the last.

    Args:
        sources: What is read.
        directory: Existing local directory for temporary files.
    """

    def __init__(self, sources: SourceFiles, directory: Path) -> None:
        self._sources, self._directory = sources, directory
        self._sizes = {found.uri: _bytes_to_read(found) for _, files in sources for found in files}
        self._parts: dict[str, ReadPart] = {}
        self._unread: list[Reject] = []
        self._done, self._uri = 0, ""

    @property
    def bytes_total(self) -> int:
        """Of the files, so far as they are to be read."""
        return sum(self._sizes.values())

    @property
    def bytes_done(self) -> int:
        """Of the files that were read to their end."""
        return self._done

    def batches(self) -> Iterator[Batch]:
        """Everything in canonical order: what is real first, by source, file and position.

        Batches depend on what is read alone. A text is in memory with its batch only.

        Raises:
            SourceRefusedError: Too much of a source cannot be read.
        """
        batch: list[Document | Reject] = []
        characters = 0
        for item in real_first(self._items(), self._directory / "synthetic.pickle"):
            batch.append(item)
            characters += len(item.text) if isinstance(item, Document) else 0
            if len(batch) == _BATCH_ITEMS or characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        self._done = self.bytes_total
        if batch:
            yield batch

    def marks(self) -> dict[str, str]:
        """By URI, of the files that could be read, once all were."""
        listed = [found for _, files in self._sources for found in files]
        return next_marks({}, listed, self._unread, self._parts)

    def _items(self) -> Iterator[Document | Reject]:
        for source, files in self._sources:
            for item in read_items(source, files, self._parts.__setitem__):
                self._passed(item.uri)
                if isinstance(item, Document):
                    # Two sources may both have a document 1, and a domain may be fed by both.
                    yield replace(item, id=f"{source.name}/{item.id}")
                    continue
                if item.reason in RETRIED_REASONS:
                    self._unread.append(item)
                yield item

    def _passed(self, uri: str) -> None:
        """Count the file before, once another is read."""
        if uri != self._uri:
            self._done += self._sizes.get(self._uri, 0)
            self._uri = uri


class Told:
    """Tells what was read, and what became of it.

    Args:
        progress: Who is told.
        reading: What is read.
        rejects: What could not be.
    """

    def __init__(
        self, progress: RefreshProgress, reading: SourceReading, rejects: RejectWriter
    ) -> None:
        self._progress, self._reading, self._rejects = progress, reading, rejects
        self._documents = self._text_bytes = 0
        self._dropped: Counter[str] = Counter()

    def add(self, prepared: Prepared, reasons: Sequence[str]) -> None:
        """Tell of another batch."""
        self._documents += len(reasons)
        self._text_bytes += int(prepared.text_bytes.sum())
        self._dropped.update(reason for reason in reasons if reason)
        self._progress.reading(
            ReadingProgress(
                documents=self._documents,
                text_bytes=self._text_bytes,
                bytes_done=self._reading.bytes_done,
                bytes_total=self._reading.bytes_total,
                kept=self._documents - self._dropped.total(),
                dropped=self._dropped,
                rejected=self._rejects.counts,
            )
        )


def _bytes_to_read(found: SourceObject) -> int:
    return found.size - (found.read_before.num_bytes if found.read_before is not None else 0)
