"""The documents of a refresh on the local disk: a row each in canonical order, and their tokens.

Nothing of a document stays in memory but its domain and its number of tokens; what is looked up
later is read where it lies.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.documents import Document
from tasks.encode import Encoded
from tasks.prepare import Prepared
from tasks.split import key_of

if TYPE_CHECKING:
    import pyarrow as pa

_ATTRIBUTES = (
    ("cluster", "string"),
    ("source", "string"),
    ("uri", "string"),
    ("position", "int64"),
    ("domain", "string"),
    ("licence", "string"),
    ("time", "string"),
    ("date", "string"),
    ("language", "string"),
    ("language_probability", "double"),
    ("address", "string"),
    ("provenance", "string"),
    ("synthetic_of", "string"),
)
"""Of documents, with their Arrow types."""
_TOKENS_AT_ONCE = 1 << 21


class DocumentSpool:
    """Takes documents batch by batch; ``close`` gives them back.

    Args:
        directory: Empty local directory.
        rank: Of a cluster of a domain, by which the holdout is chosen.
    """

    def __init__(self, directory: Path, rank: Callable[[str, str], float]) -> None:
        self._directory, self._rank = directory, rank
        self._codes: dict[str, int] = {}
        self._domains, self._lengths = array("i"), array("q")
        self._rows: Any = None
        self._is_kept = array("b")

    def add(self, prepared: Prepared, reasons: Sequence[str]) -> None:
        """Add a batch of documents, with why each is dropped, "" for what is kept."""
        if not prepared.documents:
            return
        first = len(self._domains)
        for document, reason in zip(prepared.documents, reasons, strict=True):
            self._domains.append(self._codes.setdefault(document.domain, len(self._codes)))
            self._is_kept.append(not reason)
            self._lengths.append(0)
        self._write_rows(prepared, reasons)
        if prepared.encoded is not None:
            self.add_tokens(first + prepared.looked_at, prepared.encoded)

    def add_tokens(self, rows: NDArray[np.int64], encoded: Encoded) -> None:
        """Add the tokens of documents that were added, in their order; of kept ones they stay."""
        is_kept = np.frombuffer(self._is_kept, np.int8)[rows].astype(bool)
        lengths = np.frombuffer(self._lengths, np.int64)
        lengths[rows[is_kept]] = encoded.lengths[is_kept]
        of_domains = np.frombuffer(self._domains, np.int32)[rows]
        for code in np.unique(of_domains[is_kept]).tolist():
            is_in = np.repeat(is_kept & (of_domains == code), encoded.lengths)
            with self._path(code).open("ab") as file:
                file.write(encoded.tokens[is_in].tobytes())

    @property
    def num_documents(self) -> int:
        """That were added."""
        return len(self._domains)

    def close(self, token_dtype: str) -> "SpooledDocuments":
        """All that was added; nothing can be added any more."""
        if self._rows is not None:
            self._rows.close()
        return SpooledDocuments(
            directory=self._directory,
            domain_names=tuple(self._codes),
            domains=np.frombuffer(self._domains, np.int32),
            lengths=np.frombuffer(self._lengths, np.int64),
            is_kept=np.frombuffer(self._is_kept, np.int8).astype(bool),
            token_dtype=token_dtype,
        )

    def _path(self, code: int) -> Path:
        return self._directory / f"{code}.tokens"

    def _write_rows(self, prepared: Prepared, reasons: Sequence[str]) -> None:
        import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module

        documents = prepared.documents
        columns = {
            "document": pa.array([document.id for document in documents], "string"),
            "content": pa.array(prepared.digests, pa.binary(16)),
            "cluster_key": pa.array(map(_key_of, documents), pa.binary(16)),
            "rank": pa.array([self._rank(row.domain, row.cluster) for row in documents]),
            "text_bytes": pa.array(prepared.text_bytes),
            "reason": pa.array(reasons, "string"),
        } | {
            name: pa.array([getattr(document, name) for document in documents], kind)
            for name, kind in _ATTRIBUTES
        }
        batch = pa.record_batch(columns)
        if self._rows is None:
            self._rows = pa.ipc.new_file(self._directory / "rows.arrow", batch.schema)
        self._rows.write_batch(batch)


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpooledDocuments:
    """All documents of a refresh in canonical order."""

    directory: Path
    domain_names: tuple[str, ...]
    domains: NDArray[np.int32]
    """``int32[documents]``: places in ``domain_names``."""
    lengths: NDArray[np.int64]
    """``int64[documents]``: tokens of each without framing, 0 for what is not kept."""
    is_kept: NDArray[np.bool_]
    """``bool[documents]``: whether no stage has dropped it."""
    token_dtype: str

    def __len__(self) -> int:
        return len(self.domains)

    def table(self, *names: str) -> "pa.Table":
        """Columns of all rows, read where they lie: an Arrow table without the tokens."""
        import pyarrow as pa  # noqa: PLC0415

        path = self.directory / "rows.arrow"
        if not path.exists():
            return pa.table({name: [] for name in names})
        with pa.memory_map(str(path)) as mapped:
            return pa.ipc.open_file(mapped).read_all().select(list(names))

    def keys(self, name: str) -> NDArray[np.bytes_]:
        """A column of 16 bytes a row, ``S16[documents]``."""
        chunks = self.table(name).column(0).chunks if len(self) else []
        parts = [
            np.frombuffer(chunk.buffers()[1], "S16")[chunk.offset : chunk.offset + len(chunk)]
            for chunk in chunks
        ]
        return np.concatenate([np.empty(0, "S16"), *parts])

    def floats(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, ``float64[documents]``."""
        return self.table(name).column(0).to_numpy() if len(self) else np.empty(0)

    def tokens(
        self, domain: int, wanted: NDArray[np.bool_], most_tokens: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Rows of wanted documents of a domain and their tokens, some at a time, in order.

        Args:
            domain: Its place in ``domain_names``.
            wanted: ``bool[documents]``.
            most_tokens: At a time, but that one document is always whole.
        """
        inside = np.flatnonzero((self.domains == domain) & self.is_kept)
        ends = np.cumsum(self.lengths[inside])
        if not len(ends) or not ends[-1]:
            yield from (
                (row[None], np.empty(0, self.token_dtype)) for row in inside[wanted[inside]]
            )
            return
        lying = np.memmap(self.directory / f"{domain}.tokens", self.token_dtype, "r")
        first = 0
        while first < len(inside):
            start = ends[first] - self.lengths[inside[first]]
            end = max(first + 1, int(np.searchsorted(ends, start + most_tokens, "right")))
            rows = inside[first:end]
            taken = wanted[rows]
            if taken.any():
                tokens = np.asarray(lying[start : ends[end - 1]])
                yield rows[taken], tokens[np.repeat(taken, self.lengths[rows])]
            first = end

    def tokens_of(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        """The tokens of a few documents."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[list(rows)] = True
        found: dict[int, NDArray[Any]] = {}
        for domain in np.unique(self.domains[wanted]).tolist():
            for taken, tokens in self.tokens(domain, wanted, _TOKENS_AT_ONCE):
                own = np.split(tokens, np.cumsum(self.lengths[taken])[:-1])
                found |= dict(zip(taken.tolist(), own, strict=True))
        return [found[row] for row in rows]


def _key_of(document: Document) -> bytes:
    return key_of(document.cluster)
