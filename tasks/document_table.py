"""``documents.parquet``: a row a document, kept or dropped, in canonical order.

It says where each document lies in the shards or why it is not there, and it is what the lineage
knows of its data from then on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.split import key_of
from tasks.tokenize import TokenizedDocument

_ROWS_AT_ONCE = 16_384


def write_document_table(
    documents: Sequence[TokenizedDocument],
    path: Path,
    *,
    lengths: np.ndarray,
    first_tokens: np.ndarray,
) -> None:
    """Write a row a document; the same documents give the same bytes.

    Args:
        documents: In canonical order.
        path: Of the local file.
        lengths: ``int64[documents]``, tokens of each with framing; 0 for what curation dropped.
        first_tokens: ``int64[documents]``, offset of each in the training stream of its domain;
            -1 for what is not in it.
    """
    import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema(
        [
            ("document", pa.string()),
            ("content", pa.binary(16)),
            ("cluster", pa.string()),
            ("cluster_key", pa.binary(16)),
            ("source", pa.string()),
            ("uri", pa.string()),
            ("position", pa.int64()),
            ("domain", pa.string()),
            ("licence", pa.string()),
            ("time", pa.string()),
            ("date", pa.string()),
            ("language", pa.string()),
            ("language_probability", pa.float64()),
            ("address", pa.string()),
            ("provenance", pa.string()),
            ("synthetic_of", pa.string()),
            ("tokens", pa.int64()),
            ("split", pa.string()),
            ("reason", pa.string()),
            ("first_token", pa.int64()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(documents), _ROWS_AT_ONCE):
            rows = [
                _row(documents[i], int(lengths[i]), int(first_tokens[i]))
                for i in range(start, min(start + _ROWS_AT_ONCE, len(documents)))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _row(read: TokenizedDocument, length: int, first_token: int) -> dict[str, Any]:
    document = read.document
    return {
        "document": document.id,
        "content": read.content,
        "cluster": document.cluster,
        "cluster_key": key_of(document.cluster),
        "source": document.source,
        "uri": document.uri,
        "position": document.position,
        "domain": document.domain,
        "licence": document.licence,
        "time": document.time,
        "date": document.date,
        "language": document.language,
        "language_probability": document.language_probability,
        "address": document.address,
        "provenance": document.provenance,
        "synthetic_of": document.synthetic_of,
        "tokens": length,
        "split": read.split,
        "reason": read.reason,
        "first_token": first_token,
    }
