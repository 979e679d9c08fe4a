"""Why documents are dropped: the stages of a refresh that drop them, and what is told of that."""

from collections import Counter
from collections.abc import Mapping

RULES, EXACT, TASK_ITEMS, NEAR, SHARES, CAP, TAKEDOWN = (
    "rules",
    "exact duplicates",
    "task items",
    "near-duplicates",
    "caps on shares",
    "holdout cap",
    "takedown",
)
STAGES: tuple[str, ...] = (RULES, EXACT, TASK_ITEMS, NEAR, SHARES, CAP, TAKEDOWN)
"""In the order in which a document meets them; it is dropped by the first that refuses it."""

_STAGE_OF = {
    "duplicate": EXACT,
    "duplicate_in_batch": EXACT,
    "contaminated": TASK_ITEMS,
    "near_duplicate": NEAR,
    "near_duplicate_in_batch": NEAR,
    "paragraph_duplicates": NEAR,
    "synthetic_share": SHARES,
    "source_share": SHARES,
    "holdout_cap": CAP,
    "forgotten": TAKEDOWN,
}
_AS_IT_SHOULD_BE = {EXACT, NEAR, TAKEDOWN}
_ELSEWHERE = {EXACT, TASK_ITEMS, NEAR}
_ENOUGH_DOCUMENTS, _MOST = 20, 0.9
"""Of a domain, from which on a rule that drops so much of it is told."""


def stage_of(reason: str) -> str:
    """Which of ``STAGES`` drops for ``reason``: what no other stage owns is a rule."""
    return _STAGE_OF.get(reason, RULES)


def is_elsewhere(reason: str) -> bool:
    """Whether what is dropped for ``reason`` says what a lineage has in another place as well."""
    return stage_of(reason) in _ELSEWHERE


def mostly_dropped(domains: Mapping[str, Counter[str]]) -> dict[str, str]:
    """A sentence for every domain of which next to nothing is left, but for duplicates.

    Args:
        domains: Documents by reason, "" for kept ones, by domain.
    """
    told: dict[str, str] = {}
    for domain, counts in sorted(domains.items()):
        refused = Counter(
            {why: n for why, n in counts.items() if why and stage_of(why) not in _AS_IT_SHOULD_BE}
        )
        read = sum(counts.values())
        if read >= _ENOUGH_DOCUMENTS and refused.total() >= _MOST * read:
            (why, often), *_ = refused.most_common(1)
            told[domain] = (
                f"domain {domain}: {refused.total():,} of {read:,} documents were dropped, most "
                f"for {why} ({often:,}); is this the rule that its texts should keep?"
            )
    return told
