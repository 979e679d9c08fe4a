"""Annotate, then filter: the numbers of each document are found once, the rules judge them alone.

``annotate`` reads texts and may change them; ``judge`` sees only its numbers, so that other
thresholds are tried on a stored table without reading a text again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.curation import c4, code, fineweb, gopher, language, pii
from tasks.curation.annotation_table import DELIVERED
from tasks.curation.config import EVERY, NO_RULES, DomainRules
from tasks.curation.gopher import Numbers


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
        columns |= language.COLUMNS if of_domain.language else {}
        for section, prefix, names in (
            (of_domain.gopher, gopher.PREFIX, gopher.COLUMNS),
            (of_domain.c4, c4.PREFIX, c4.COLUMNS),
            (of_domain.fineweb, fineweb.PREFIX, fineweb.COLUMNS),
            (of_domain.code, code.PREFIX, code.COLUMNS),
            (of_domain.pii, pii.PREFIX, pii.COLUMNS),
        ):
            columns |= {prefix + name: "int64" for name in names if section}
    return columns


def annotate(texts: Sequence[str], names: Sequence[str], rules: DomainRules) -> Annotated:
    """What the rules need to know of normalised texts, and what they leave of them. Pure.

    ``names`` are those of their files, which tell the language of code.
    """
    numbers: dict[str, NDArray[Any]] = {}
    left = list(texts)
    if rules.language:
        numbers |= language.identify(left)
    if rules.gopher:
        from tasks.curation import gopher_counts  # noqa: PLC0415  imports numba

        counts = gopher_counts.count_texts(left)
        numbers |= _named(gopher.PREFIX, gopher.COLUMNS, counts)
    if rules.c4:
        from tasks.curation import c4_lines  # noqa: PLC0415  imports numba

        left, counts = c4_lines.clean_lines(
            left,
            needs_end_mark=rules.c4.end_marks,
            min_words_per_line=rules.c4.min_words_per_line,
            max_word_characters=rules.c4.max_word_characters,
        )
        numbers |= _named(c4.PREFIX, c4.COLUMNS, counts)
    if rules.fineweb:
        from tasks.curation import fineweb_counts  # noqa: PLC0415  imports numba

        short = rules.fineweb.short_line_characters
        counts = fineweb_counts.count_texts(left, short_line_characters=short)
        numbers |= _named(fineweb.PREFIX, fineweb.COLUMNS, counts)
    if rules.code:
        left, counts = code.count_code(left, names, rules.code)
        numbers |= _named(code.PREFIX, code.COLUMNS, counts)
    if rules.pii:
        left, counts = pii.count_and_mask(left, rules.pii.mask)
        numbers |= _named(pii.PREFIX, pii.COLUMNS, counts)
    return Annotated(left, numbers)


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
        for reason, drops in _verdicts(inside, rules_of(rules, domain)):
            dropped = rows[drops]
            reasons[dropped[reasons[dropped] == ""]] = reason
    return reasons.tolist()


def _verdicts(numbers: Numbers, rules: DomainRules) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if rules.language:
        yield from language.language_verdicts(numbers, rules.language)
    if rules.gopher:
        yield from gopher.gopher_verdicts(numbers, rules.gopher)
    if rules.c4:
        yield from c4.c4_verdicts(numbers, rules.c4)
    if rules.fineweb:
        yield from fineweb.fineweb_verdicts(numbers, rules.fineweb)
    if rules.code:
        yield from code.code_verdicts(numbers, rules.code)
    if rules.pii:
        yield from pii.pii_verdicts(numbers, rules.pii)


def _named(
    prefix: str, columns: Sequence[str], counts: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    return {prefix + name: counts[:, place] for place, name in enumerate(columns)}
