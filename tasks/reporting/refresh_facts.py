"""What a snapshot says of the refresh that minted it: counts of its documents, from its tables.

Read in batches: memory grows with distinct domains, sources, licences and reasons, not documents.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.errors import CorruptError
from storage.snapshots import DOCUMENTS
from tasks.curation import gopher, pii
from tasks.curation.annotation_table import ANNOTATIONS
from tasks.curation.perplexity import PER_BYTE
from tasks.reporting.refresh_perplexity import PerplexityFacts, perplexity_facts

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 65_536
_EXAMPLES = 5
"""Documents named a reason."""
BINS = 48
"""Of a length: bin ``n`` is from ``2**n`` to below ``2**(n + 1)``."""
_CHARACTERS = gopher.PREFIX + "characters"
_LANGUAGE = "language"

Bins: TypeAlias = NDArray[np.int64]
"""``int64[BINS]``: documents by length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Documents that are alike in where they come from and what became of them."""

    domain: str
    source: str
    licence: str
    split: str
    """``train``, ``holdout`` or ``dropped``."""
    reason: str
    documents: int
    tokens: int

    @property
    def is_kept(self) -> bool:
        """Whether they are trained on or held out."""
        return self.split != "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a document stands."""

    document: str
    uri: str
    position: int
    domain: str


@dataclass(slots=True)
class DocumentFacts:
    """Counts over all documents of a snapshot."""

    groups: list[Group] = field(default_factory=list[Group])
    """By domain, source, licence, split and reason."""
    tokens: dict[bool, Bins] = field(default_factory=lambda: _two_bins())
    """Documents by their tokens, of those that have some: kept (True) and dropped."""
    characters: dict[bool, Bins] = field(default_factory=lambda: _two_bins())
    """Documents by their characters, of those whose rules count them: kept (True) and dropped."""
    languages: dict[bool, Counter[str]] = field(
        default_factory=lambda: {True: Counter(), False: Counter()}
    )
    """Documents by language, as it was found or else as the source says; "" when unknown."""
    dates: Counter[str] = field(default_factory=Counter[str])
    """Kept documents by date, to the month as far as it is known; "" when it is not."""
    places: dict[str, list[Place]] = field(default_factory=dict[str, list[Place]])
    """The first few documents of each reason."""
    personal: Counter[str] = field(default_factory=Counter[str])
    """Finds of each kind of personal data."""
    perplexity: PerplexityFacts | None = None
    """None where no rule asks for it."""

    @property
    def by_domain(self) -> dict[str, Counter[str]]:
        """Documents by reason, "" for kept ones, by domain."""
        found: dict[str, Counter[str]] = {}
        for group in self.groups:
            found.setdefault(group.domain, Counter())[group.reason] += group.documents
        return found


def read_documents(documents: Path, annotations: Path | None) -> DocumentFacts:
    """Count the documents of a snapshot.

    Args:
        documents: Its ``documents.parquet``.
        annotations: Its ``annotations.parquet``, None when no domain has rules.

    Raises:
        CorruptError: The tables are not of the same documents.
    """
    facts = DocumentFacts(perplexity=perplexity_facts(annotations))
    groups: Counter[tuple[str, ...]] = Counter()
    tokens: Counter[tuple[str, ...]] = Counter()
    beside = _annotations(annotations)
    for table in _batches(documents, _COLUMNS):
        _count_groups(table, groups, tokens)
        is_kept = _numpy(table["split"]) != "dropped"
        _count_lengths(facts.tokens, _numpy(table["tokens"]), is_kept)
        _count_dates(facts.dates, table)
        _note_places(facts.places, table)
        _count_annotations(facts, table, next(beside, None), is_kept)
    names = ("domain", "source", "licence", "split", "reason")
    facts.groups = [
        Group(**dict(zip(names, key, strict=True)), documents=count, tokens=tokens[key])
        for key, count in sorted(groups.items())
    ]
    return facts


_KEYS = ["domain", "source", "licence", "split", "reason"]
_COLUMNS = ["document", "uri", "position", "date", _LANGUAGE, "tokens", *_KEYS]


def _batches(path: Path, columns: list[str]) -> Iterator["pa.Table"]:
    import pyarrow as pa  # noqa: PLC0415  slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            yield pa.Table.from_batches([batch])


def _annotations(path: Path | None) -> Iterator["pa.Table"]:
    """The columns that are shown, in batches of the same rows as those of the documents."""
    if path is None:
        return iter(())
    import pyarrow.parquet as pq  # noqa: PLC0415

    wanted = {
        "document",
        _LANGUAGE,
        _CHARACTERS,
        PER_BYTE,
        *(pii.PREFIX + kind for kind in pii.COLUMNS),
    }
    return _batches(path, [name for name in pq.read_schema(path).names if name in wanted])


def _count_groups(
    table: "pa.Table", groups: Counter[tuple[str, ...]], tokens: Counter[tuple[str, ...]]
) -> None:
    counted = table.group_by(_KEYS).aggregate([([], "count_all"), ("tokens", "sum")])
    for row in counted.to_pylist():
        key = tuple(row[name] for name in _KEYS)
        groups[key] += row["count_all"]
        tokens[key] += row["tokens_sum"]


def _count_lengths(
    bins: Mapping[bool, Bins], lengths: NDArray[np.int64], is_kept: NDArray[np.bool_]
) -> None:
    for side, found in bins.items():
        chosen = lengths[(is_kept == side) & (lengths > 0)]
        # frexp is exact where a logarithm is rounded: 2**n is of bin n.
        places = np.frexp(chosen.astype(np.float64))[1] - 1
        found += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)


def _count_dates(dates: Counter[str], table: "pa.Table") -> None:
    import pyarrow.compute as pc  # noqa: PLC0415

    kept = table.filter(pc.field("split") != "dropped")
    for date, count in _counts(kept["date"]).items():
        dates[date[: len("2024-05")]] += count


def _note_places(places: dict[str, list[Place]], table: "pa.Table") -> None:
    import pyarrow.compute as pc  # noqa: PLC0415

    for reason in sorted(table["reason"].unique().to_pylist()):
        noted = places.setdefault(reason, []) if reason else []
        missing = _EXAMPLES - len(noted) if reason else 0
        if missing:
            found = table.filter(pc.field("reason") == reason).slice(0, missing)
            rows = found.select(["document", "uri", "position", "domain"]).to_pylist()
            noted += [Place(**row) for row in rows]


def _count_annotations(
    facts: DocumentFacts,
    table: "pa.Table",
    annotations: "pa.Table | None",
    is_kept: NDArray[np.bool_],
) -> None:
    import pyarrow.compute as pc  # noqa: PLC0415

    languages = table[_LANGUAGE]
    if annotations is not None:
        if not annotations["document"].equals(table["document"]):
            raise CorruptError(
                f"{ANNOTATIONS} and {DOCUMENTS} of a snapshot are not of the same documents in the "
                "same order; restore both from a copy"
            )
        if _LANGUAGE in annotations.column_names:
            # Null where the rules of a domain do not ask for it.
            languages = pc.call_function("coalesce", [annotations[_LANGUAGE], languages])
        if _CHARACTERS in annotations.column_names:
            characters = _numpy(annotations[_CHARACTERS].fill_null(0))
            _count_lengths(facts.characters, characters, is_kept)
        if facts.perplexity is not None:
            facts.perplexity.add(table["domain"], annotations)
        for kind in pii.COLUMNS:
            if pii.PREFIX + kind in annotations.column_names:
                finds = annotations[pii.PREFIX + kind].fill_null(0)
                facts.personal[kind] += int(_numpy(finds).sum())
    for side, found in facts.languages.items():
        found.update(_counts(languages.filter(_mask(is_kept == side))))


def _counts(column: Any) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def _mask(chosen: NDArray[np.bool_]) -> "pa.Array":
    import pyarrow as pa  # noqa: PLC0415

    return pa.array(chosen)


def _numpy(column: Any) -> NDArray[Any]:
    return column.to_numpy(zero_copy_only=False)


def _two_bins() -> dict[bool, Bins]:
    return {True: np.zeros(BINS, np.int64), False: np.zeros(BINS, np.int64)}
