"""Annotate, then filter: the numbers of each document are found once, the rules judge them alone.

``annotate`` reads texts and may change them; ``judge`` sees only its numbers, so that other
thresholds are tried on a stored table without reading a text again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.curation import (
    alignment,
    c4,
    code,
    fineweb,
    gopher,
    importance,
    language,
    perplexity,
    pii,
    quality,
    text_statistics,
)
from tasks.curation.annotation_table import DELIVERED
from tasks.curation.config import EVERY, NO_RULES, DomainRules
from tasks.curation.learned import NOTHING_LEARNED, Learned
from tasks.curation.scorer import Batch, Numbers, Scorer

SCORERS: tuple[Scorer, ...] = (
    language.SCORER,
    gopher.SCORER,
    c4.SCORER,
    fineweb.SCORER,
    code.SCORER,
    quality.SCORER,
    text_statistics.SCORER,
    importance.SCORER,
    alignment.SCORER,
    pii.SCORER,
    perplexity.SCORER,
)
"""In the order in which they see texts and judge them."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """A batch of texts of one domain, and what was found."""

    texts: list[str]
    """Without what the rules remove from kept texts."""
    numbers: dict[str, NDArray[Any]]
    """An entry a text, by the names of ``columns_of``."""


def rules_of(rules: Mapping[str, DomainRules], domain: str) -> DomainRules:
    """The rules for a domain."""
    return rules.get(domain) or rules.get(EVERY) or NO_RULES


def columns_of(rules: Iterable[DomainRules]) -> dict[str, str]:
    """Names and Arrow types of what is found for documents of any of these rules."""
    columns: dict[str, str] = {}
    for of_domain in rules:
        columns[DELIVERED] = "binary"
        for scorer, _ in asked(of_domain):
            columns |= scorer.columns
    return columns


def asked(rules: DomainRules) -> Iterator[tuple[Scorer, Any]]:
    """The scorers that the rules ask for, each with its section."""
    for scorer in SCORERS:
        section = getattr(rules, scorer.section)
        if section is not None:
            yield scorer, section


def annotate(
    texts: Sequence[str],
    names: Sequence[str],
    rules: DomainRules,
    learned: Learned = NOTHING_LEARNED,
    is_kept: NDArray[np.bool_] | None = None,
) -> Annotated:
    """What the rules need to know of normalised texts, and what they leave of them. Pure.

    Args:
        texts: Of one domain.
        names: Of their files, which tell the language of code.
        rules: Of the domain.
        learned: From the files that the rules name; of rules that name none nothing is needed.
        is_kept: ``bool[texts]``, False for what is dropped whatever the rules say; dear scorers
            leave that out. None: all may be kept.
    """
    numbers: dict[str, NDArray[Any]] = {}
    kept = np.ones(len(texts), np.bool_) if is_kept is None else is_kept
    for scorer, section in asked(rules):
        own = learned.of(section) if scorer.learn else None
        batch = Batch(texts, names, kept, own, learned.champion)
        texts, found = scorer.score(batch, section)
        numbers |= found
        for _, drops in scorer.verdicts(numbers, section):
            kept = kept & ~drops
    return Annotated(list(texts), numbers)


def judge(numbers: Numbers, domains: Sequence[str], rules: Mapping[str, DomainRules]) -> list[str]:
    """The reason why each document is dropped, "" for those that are kept.

    Args:
        numbers: As ``annotate`` gives them or ``read_annotations`` reads them; entries that the
            rules of a document's domain do not ask for may be anything.
        domains: Of the documents.
        rules: By domain.
    """
    reasons = np.full(len(domains), "", object)
    of_domain = np.array(domains, object)
    for domain in sorted(set(domains)):
        rows = np.flatnonzero(of_domain == domain)
        inside = {name: column[rows] for name, column in numbers.items()}
        for scorer, section in asked(rules_of(rules, domain)):
            for reason, drops in scorer.verdicts(inside, section):
                dropped = rows[drops]
                reasons[dropped[reasons[dropped] == ""]] = reason
    return reasons.tolist()
