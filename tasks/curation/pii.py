"""Personal data and secrets in a text: found, counted, masked.

Addresses of e-mail and of machines on the internet, telephone and card numbers, keys and tokens.
What is certainly nobody's is left alone: names reserved for examples (RFC 2606), addresses of
private networks, numbers that fail their check. Names and postal addresses are not looked for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.curation.pii_search import KINDS, Kind, Span, find_pii
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts, counted, whole_numbers
from training.config import FORBID_UNKNOWN

PREFIX = "pii_"
COLUMNS: tuple[str, ...] = KINDS
"""How many of each kind a text has, before any are masked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PiiRules:
    """What happens to documents with personal data or secrets: they are always counted."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    mask: tuple[Kind, ...] = KINDS
    """Kinds that are replaced by ``[EMAIL]``, ``[PHONE]``, ..."""
    drop: tuple[Kind, ...] = ()
    """Kinds of which one is enough to drop the document."""


def mask_pii(text: str, spans: Sequence[Span], kinds: Sequence[Kind]) -> str:
    """``text`` with the spans of these kinds replaced by the name of the kind in brackets."""
    parts: list[str] = []
    place = 0
    for start, end, kind in spans:
        if kind in kinds:
            parts += (text[place:start], f"[{kind.upper()}]")
            place = end
    return "".join((*parts, text[place:]))


def count_and_mask(
    texts: Sequence[str], kinds: Sequence[Kind]
) -> tuple[list[str], NDArray[np.int64]]:
    """Texts with these kinds masked, and ``int64[texts, len(COLUMNS)]``: how many each had."""
    counts = np.zeros((len(texts), len(COLUMNS)), np.int64)
    masked: list[str] = []
    for row, text in enumerate(texts):
        spans = find_pii(text)
        tally = Counter(kind for _, _, kind in spans)
        counts[row] = [tally[kind] for kind in KINDS]
        masked.append(mask_pii(text, spans, kinds) if spans else text)
    return masked, counts


def describe_found(numbers: Numbers) -> str:
    """A sentence on what was found in all documents, "" when nothing was."""
    totals = {kind: int(numbers[PREFIX + kind].sum()) for kind in KINDS if PREFIX + kind in numbers}
    told = ", ".join(f"{kind} {total:,}" for kind, total in totals.items() if total)
    return f"personal data and secrets found: {told}" if told else ""


def pii_verdicts(numbers: Numbers, rules: PiiRules) -> Verdicts:
    """Which documents are dropped for what they hold."""
    for kind in rules.drop:
        yield f"pii:{kind}", numbers[PREFIX + kind] > 0


def _score(batch: Batch, rules: PiiRules) -> tuple[Sequence[str], Numbers]:
    left, counts = count_and_mask(batch.texts, rules.mask)
    return left, counted(PREFIX, COLUMNS, counts)


SCORER = Scorer("pii", whole_numbers(PREFIX, COLUMNS), _score, pii_verdicts)
