"""The ledger: which document was seen how often by which update, over the lineage's whole life."""

import io
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from storage.errors import AlreadyExistsError, CorruptError
from storage.layout import Layout
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, order=True)
class LedgerRow:
    """What one update saw of one document."""

    snapshot: str
    domain: str
    document: str
    """Document id as in the snapshot's table of documents."""
    exposures: int
    """Times seen."""
    tokens: int
    """Tokens seen, over all exposures."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one update saw of a document that was asked for."""

    update: str
    row: LedgerRow


def write_ledger(
    store: ObjectStore, layout: Layout, update: str, rows: Iterable[LedgerRow]
) -> None:
    """Write what ``update`` saw, as Parquet with checksums. Safe to retry with the same rows.

    Raises:
        AlreadyExistsError: The update has a ledger with other rows.
        ValueError: Two rows are about the same document.
    """
    ordered = sorted(rows)
    for one, other in pairwise(ordered):
        if _document_of(one) == _document_of(other):
            raise ValueError(
                f"the ledger of update {update} has two rows about {one.document} of "
                f"{one.domain}@{one.snapshot}; add them up"
            )
    try:
        store.put_if_absent(layout.ledger(update), _parquet(ordered))
    except AlreadyExistsError:
        # Another release of pyarrow writes the same rows as other bytes.
        if read_ledger(store, layout, update) != ordered:
            raise


def read_ledger(store: ObjectStore, layout: Layout, update: str) -> list[LedgerRow]:
    """The rows of an update, sorted.

    Raises:
        NotFoundError: The update has no ledger.
        CorruptError: It was altered.
    """
    return _rows(store, layout.ledger(update), None)


def exposures_of(
    store: ObjectStore, layout: Layout, documents: Collection[str]
) -> dict[str, list[Exposure]]:
    """Of each document every update that saw it, by update id. Reads all ledgers of the lineage.

    Raises:
        CorruptError: A ledger was altered.
    """
    found: dict[str, list[Exposure]] = {document: [] for document in documents}
    if found:
        for info in store.list(layout.ledgers):
            for row in _rows(store, info.key, found):
                found[row.document].append(Exposure(PurePosixPath(info.key).stem, row))
    return found


def _document_of(row: LedgerRow) -> tuple[str, str, str]:
    return row.snapshot, row.domain, row.document


def _schema() -> Any:
    import pyarrow as pa  # noqa: PLC0415  slow to import, and a scheduler never reads ledgers

    texts = [(name, pa.string()) for name in ("snapshot", "domain", "document")]
    return pa.schema([*texts, ("exposures", pa.int64()), ("tokens", pa.int64())])


def _parquet(rows: list[LedgerRow]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415  see _schema
    import pyarrow.parquet as pq  # noqa: PLC0415  see _schema

    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd", write_page_checksum=True)
    return target.getvalue()


def _rows(store: ObjectStore, key: str, documents: Collection[str] | None) -> list[LedgerRow]:
    """The rows at ``key``, of some documents only if asked for."""
    import pyarrow as pa  # noqa: PLC0415  see _schema
    import pyarrow.parquet as pq  # noqa: PLC0415  see _schema

    try:
        table = pq.read_table(
            io.BytesIO(store.get(key)),
            page_checksum_verification=True,
            filters=None if documents is None else [("document", "in", list(documents))],
        )
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(
            f"{key} cannot be read as a ledger ({error}); it was altered, restore it from a copy"
        ) from error
    if not table.schema.equals(_schema()):
        raise CorruptError(
            f"{key} should have the columns {', '.join(_schema().names)}, found "
            f"{', '.join(table.schema.names)}; it was altered, restore it from a copy"
        )
    return [LedgerRow(**row) for row in table.to_pylist()]
