"""Text made to measure: distinct pseudo-words that are no contraction, no unit and no stop word."""

from itertools import islice, product

from tasks.curation.annotate import annotate, judge
from tasks.curation.config import DomainRules


def words(count: int, length: int = 6, *, skip: int = 0) -> list[str]:
    """Distinct words of ``length`` letters, at least 3."""
    parts = ("bfgkpz", "aeiou")
    spelled = product(*(parts[place % 2] for place in range(min(length, 9))))
    return ["".join(word) + "z" * (length - 9) for word in islice(spelled, skip, skip + count)]


def prose(count: int, *, skip: int = 0, line: int = 10) -> str:
    """``count`` words with two stop words among them, ten a line, every line a sentence."""
    all_words = ["the", "and", *words(count - 2, skip=skip)]
    lines = [all_words[place : place + line] for place in range(0, count, line)]
    return "\n".join(" ".join(row) + "." for row in lines)


def reason_of(text: str, rules: DomainRules, name: str = "") -> str:
    """Why the rules drop the text, "" when they keep it."""
    [reason] = judge(annotate([text], [name], rules).numbers, ["web"], {"web": rules})
    return reason


def cleaned(text: str, rules: DomainRules, name: str = "") -> str:
    """What the rules leave of the text."""
    [left] = annotate([text], [name], rules).texts
    return left
