"""``annotations.parquet``: what was found of each document, kept or dropped, in canonical order.

Written only where a domain has rules. A number is null where the rules of the document's domain do
not ask for it, and where it was too dear to be found for what other rules drop.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.documents import Document

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DELIVERED = "delivered"
"""Column of the digest of each text before the rules changed it: as a person would ask for it."""

Found: TypeAlias = tuple[Sequence[int], Mapping[str, NDArray[Any]]]
"""Places of the documents of a domain within a batch, and their numbers."""

ANNOTATIONS = "annotations.parquet"
"""Name of the table among a snapshot's files."""


LEARNED_FROM = "learned_from"
"""Key of the table's metadata: JSON, digests of texts by their URI."""

SCORED_BY = "scored_by"
"""Key of the table's metadata: JSON, version and weights of the champion that scored documents."""

_NOTHING: Mapping[str, str] = {}


class AnnotationWriter:
    """Writes annotations to a new local file, batch by batch; no file where there are no columns.

    Use it as a context manager. Equal batches give equal bytes.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str],
        learned_from: Mapping[str, str] = _NOTHING,
        scored_by: Mapping[str, str] = _NOTHING,
    ) -> None:
        """A writer that has written nothing yet.

        Args:
            path: Where to.
            columns: Names and Arrow types of the numbers (``columns_of``).
            learned_from: Digests of the texts that scorers learned from, by URI; the table says so.
            scored_by: The champion that scored documents; the table says so.
        """
        self._path = path
        self._columns = columns
        told = {LEARNED_FROM: learned_from, SCORED_BY: scored_by}
        self._metadata = {
            key: json.dumps(dict(value), sort_keys=True) for key, value in told.items() if value
        }
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, documents: Sequence[Document], found: Sequence[Found]) -> None:
        """Add a batch of documents, with what was found of those of each domain."""
        if not self._columns:
            return
        import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
        import pyarrow.parquet as pq  # noqa: PLC0415

        columns = {
            "document": pa.array([document.id for document in documents]),
            "domain": pa.array([document.domain for document in documents]),
        }
        for name, kind in self._columns.items():
            cells = np.full(len(documents), None, object)
            for places, numbers in found:
                if name in numbers:
                    cells[places] = numbers[name]
            # Not a number is null too: nothing was found.
            columns[name] = pa.array(cells.tolist(), kind, from_pandas=True)
        table = pa.table(columns)
        if self._metadata:
            table = table.replace_schema_metadata(self._metadata)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


def documents_delivered_as(path: Path, contents: Sequence[bytes]) -> list[str]:
    """Documents whose text, before the rules changed it, had one of these digests."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    filters = [[(DELIVERED, "in", list(contents))]]
    return pq.read_table(path, columns=["document"], filters=filters)["document"].to_pylist()


def digests_delivered(path: Path, documents: Collection[str]) -> dict[str, bytes]:
    """Of some documents the digest of the text before the rules changed it."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    filters = [[("document", "in", list(documents))]]
    table = pq.read_table(path, columns=["document", DELIVERED], filters=filters)
    pairs = zip(table["document"].to_pylist(), table[DELIVERED].to_pylist(), strict=True)
    return {document: digest for document, digest in pairs if digest is not None}


def read_annotations(path: Path, prefix: str = "") -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Domains of the documents and their numbers, for ``judge``; nulls are read as 0 or "".

    Only the numbers whose names begin with ``prefix`` are read.
    """
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    names = [
        name
        for name in pq.read_schema(path).names
        if name.startswith(prefix) and name not in ("document", "domain", DELIVERED)
    ]
    table = pq.read_table(path, columns=["domain", *names])
    numbers: dict[str, NDArray[Any]] = {}
    for name in names:
        column = table.column(name)
        nothing = "" if str(column.type) == "string" else 0
        numbers[name] = pc.fill_null(column, nothing).to_numpy()
    return table.column("domain").to_pylist(), numbers
