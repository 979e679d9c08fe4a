"""What the champion made of documents, as the page of a refresh tells: where thresholds may lie."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.curation.annotation_table import SCORED_BY
from tasks.curation.perplexity import PER_BYTE

if TYPE_CHECKING:
    import pyarrow as pa

_HUNDREDTHS = 2000
"""Of a nat a byte; what is more counts for the last."""


@dataclass(slots=True)
class PerplexityFacts:
    """Documents by their nats a byte."""

    scored_by: str
    """Version of the champion; "" where there was none yet."""
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict[str, NDArray[np.int64]])
    """``int64[2000]`` by domain: documents from each hundredth of a nat to the next."""

    def add(self, domains: "pa.ChunkedArray", annotations: "pa.Table") -> None:
        """Count some rows; those that were not scored are left out."""
        column: Any = annotations[PER_BYTE]
        nats = column.to_numpy(zero_copy_only=False)
        is_scored = np.isfinite(nats)
        of_row = np.array(domains.to_pylist(), object)
        for domain in sorted(set(of_row[is_scored])):
            bins = np.floor(nats[is_scored & (of_row == domain)] * 100 + 1e-6).astype(np.int64)
            found = np.bincount(np.minimum(bins, _HUNDREDTHS - 1), minlength=_HUNDREDTHS)
            self.counts[domain] = self.counts.get(domain, 0) + found

    def told(self) -> tuple[str, ...]:
        """A sentence a domain."""
        if not self.scored_by:
            return ("nothing was scored: the lineage had no champion yet",)
        return tuple(
            f"{domain}: {counts.sum():,} documents scored by {self.scored_by}; 5% of them below "
            f"{_quantile(counts, 0.05)}, half below {_quantile(counts, 0.5)}, 5% above "
            f"{_quantile(counts, 0.95)} nats a byte"
            for domain, counts in sorted(self.counts.items())
        ) or (f"{self.scored_by} had nothing to score",)


def perplexity_facts(annotations: Path | None) -> PerplexityFacts | None:
    """Nothing counted yet; None where no rule asked for it."""
    if annotations is None:
        return None
    import pyarrow.parquet as pq  # noqa: PLC0415  slow to import

    schema = pq.read_schema(annotations)
    if PER_BYTE not in schema.names:
        return None
    told = (schema.metadata or {}).get(SCORED_BY.encode())
    return PerplexityFacts(json.loads(told)["version"] if told else "")


def _quantile(counts: NDArray[np.int64], share: float) -> str:
    """The end of the hundredth in which this share of the documents is reached."""
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return f"{(place + 1) / 100:.2f}"
