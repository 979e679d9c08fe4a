"""``documents.parquet``: a row a document, kept or dropped, in canonical order.

It says where each document lies in the shards or why it is not there, and it is what the lineage
knows of its data from then on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.settle import LATE_REASONS, Settled
from tasks.split import SPLITS, key_of
from tasks.spool import SpooledDocuments

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 16_384
_SPOOLED = (
    "document", "content", "cluster", "cluster_key", "source", "uri", "position", "domain",
    "licence", "time", "date", "language", "language_probability", "address", "provenance",
    "synthetic_of",
)  # fmt: skip
"""Columns that are written as they were read; others follow."""


def write_document_table(
    documents: SpooledDocuments,
    path: Path,
    *,
    settled: Settled,
    lengths: NDArray[np.int64],
    first_tokens: NDArray[np.int64],
) -> None:
    """Write a row a document; the same documents give the same bytes.

    Args:
        documents: In canonical order.
        path: Of the local file.
        settled: Where each goes.
        lengths: ``int64[documents]``, tokens of each with framing; 0 for what has none.
        first_tokens: ``int64[documents]``, offset of each in the training stream of its domain;
            -1 for what is not in it.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    table = _with_clusters(documents.table(*_SPOOLED, "reason"), settled.edited)
    with pq.ParquetWriter(path, _schema(table.select(_SPOOLED).schema), compression="zstd") as out:
        for start in range(0, len(documents), _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, len(documents)))
            spooled = table.slice(rows.start, rows.stop - rows.start).combine_chunks()
            named = np.array(LATE_REASONS, object)[settled.late[rows]]
            reasons = np.where(settled.late[rows] > 0, named, spooled["reason"].to_numpy())
            more = {
                "tokens": lengths[rows],
                "split": [SPLITS[split] for split in settled.splits[rows].tolist()],
                "reason": reasons.tolist(),
                "first_token": first_tokens[rows],
            }
            out.write_table(_with(spooled.select(_SPOOLED), more))


def _with_clusters(table: "pa.Table", edited: Mapping[int, str]) -> "pa.Table":
    """The table, some rows in other clusters."""
    import pyarrow as pa  # noqa: PLC0415

    if not edited:
        return table
    clusters = table["cluster"].to_pylist()
    keys = table["cluster_key"].to_pylist()
    for row, cluster in edited.items():
        clusters[row], keys[row] = cluster, key_of(cluster)
    for name, kind, values in (
        ("cluster", pa.string(), clusters),
        ("cluster_key", pa.binary(16), keys),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    return table


def _with(table: "pa.Table", more: dict[str, Any]) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415

    for name, values in more.items():
        table = table.append_column(name, pa.array(values))
    return table


def _schema(spooled: "pa.Schema") -> "pa.Schema":
    import pyarrow as pa  # noqa: PLC0415

    more = [
        ("tokens", pa.int64()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("first_token", pa.int64()),
    ]
    return pa.schema([*spooled, *(pa.field(*item) for item in more)])
