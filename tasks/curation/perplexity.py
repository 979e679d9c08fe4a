"""How probable the lineage's model in use holds a text, by the beginning of it.

Published filters drop what is least probable (CCNet, Wenzek et al. 2019, arXiv:1911.00359, by a
small model of good text) or keep the middle, as what is most probable is repetition and boilerplate
(Marion et al. 2023, arXiv:2309.04564). They cut at percentiles of a corpus; here thresholds are
nats a byte, so that what is kept of a document does not depend on its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts
from training.config import FORBID_UNKNOWN

TOKENS, PER_TOKEN, PER_BYTE = (
    "perplexity_tokens",
    "perplexity_nats_per_token",
    "perplexity_nats_per_byte",
)
COLUMNS = {TOKENS: "int64", PER_TOKEN: "float64", PER_BYTE: "float64"}
"""Tokens that were scored, 0 of a text that was not; nats, rounded, are null then."""

_DECIMALS = 4
"""A ten-thousandth of a nat tells nothing of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityRules:
    """Nats of a text's beginning under the champion. Slow: one forward pass a document.

    Only what the rules before it keep is scored. Without a threshold it only annotates, and before
    a lineage has a champion it does nothing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    tokens: Annotated[int, Bounds(ge=1, le=1_000_000, unit="tokens")] = 256
    """Of a document that are scored, its first ones; fewer where the champion's window is shorter.
    The time is in proportion to them."""
    min_nats_per_byte: Annotated[float | None, Bounds(ge=0, unit="nats per byte")] = None
    """Least; below it is what the champion could as well have written: repetition, boilerplate."""
    max_nats_per_byte: Annotated[float | None, Bounds(gt=0, unit="nats per byte")] = None
    """Most; above it is what is least like all that it has learned: noise, other languages."""

    def __post_init__(self) -> None:
        least, most = self.min_nats_per_byte, self.max_nats_per_byte
        if least is not None and most is not None and least >= most:
            raise ValueError(
                f"perplexity.min_nats_per_byte {least:g} is not below max_nats_per_byte {most:g}, "
                "so every document would be dropped; lower the one or raise the other"
            )


def perplexity_verdicts(numbers: Numbers, rules: PerplexityRules) -> Verdicts:
    """Which documents are too probable, or not enough; none of those that were not scored."""
    nats, is_scored = numbers[PER_BYTE], numbers[TOKENS] > 0
    if rules.min_nats_per_byte is not None:
        yield "perplexity:too_low", is_scored & (nats < rules.min_nats_per_byte)
    if rules.max_nats_per_byte is not None:
        yield "perplexity:too_high", is_scored & (nats > rules.max_nats_per_byte)


def _score(batch: Batch, rules: PerplexityRules) -> tuple[Sequence[str], Numbers]:
    scored = np.zeros((len(batch.texts), 3))
    if batch.champion is not None and batch.is_kept.any():
        texts = [text for text, kept in zip(batch.texts, batch.is_kept, strict=True) if kept]
        # Of equal ones all but one will be dropped.
        distinct = sorted(set(texts))
        found = dict(zip(distinct, batch.champion.score(distinct, rules.tokens), strict=True))
        scored[batch.is_kept] = [found[text] for text in texts]
    nats, tokens, text_bytes = scored.T
    return batch.texts, {
        TOKENS: tokens.astype(np.int64),
        PER_TOKEN: _ratio(nats, tokens),
        PER_BYTE: _ratio(nats, np.where(tokens > 0, text_bytes, 0)),
    }


def _ratio(nats: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded; NaN where there are no units."""
    ratios = np.full(len(nats), np.nan)
    np.divide(nats, units, out=ratios, where=units > 0)
    return ratios.round(_DECIMALS)


SCORER = Scorer("perplexity", COLUMNS, _score, perplexity_verdicts)
