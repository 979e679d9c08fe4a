"""What a scorer is: it finds numbers of texts, may change them, and says what they drop.

To add one: a module with its section of the rules and a ``SCORER``, a field of that section in
``DomainRules``, and the scorer's place in ``annotate.SCORERS``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tasks.curation.champion import Champion

Numbers: TypeAlias = Mapping[str, NDArray[Any]]
"""Annotations of a batch: a column a name, an entry a document."""
Verdicts: TypeAlias = Iterator[tuple[str, NDArray[np.bool_]]]
"""A reason, and which documents it drops."""
TEXTS = frozenset({"reference", "random", "target"})
"""Keys of a section that name texts by URI; in YAML a path is relative to the file's folder."""
Read: TypeAlias = Callable[[str], Iterator[str]]
"""The normalised texts of a URI."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a scorer sees: texts of one domain, as the scorers before it left them."""

    texts: Sequence[str]
    names: Sequence[str]
    """Of their files, which tell the language of code."""
    is_kept: NDArray[np.bool_]
    """Which of them no rule before this one drops, for scorers that are too dear for the others."""
    learned: Any = None
    """What ``Scorer.learn`` made of the section's files."""
    champion: "Champion | None" = None
    """The lineage's model in use; None: it has none yet."""


class Scorer(NamedTuple):
    """One way of looking at texts. All of it is pure: batches may be spread over workers."""

    section: str
    """Field of ``DomainRules`` that asks for it; the second argument of the functions below."""
    columns: Mapping[str, str]
    """Names and Arrow types of its numbers; no two scorers share one."""
    score: Callable[[Batch, Any], tuple[Sequence[str], Numbers]]
    """The texts it leaves, and the numbers of each."""
    verdicts: Callable[[Numbers, Any], Verdicts]
    """By numbers and thresholds alone, in the order in which they count."""
    learn: Callable[[Any, Read], Any] | None = None
    """What scoring needs from the files that the section names, once a refresh."""


def nothing_drops(_numbers: Numbers, _rules: Any) -> Verdicts:
    """The verdicts of a scorer that only annotates."""
    return iter(())


def counted(prefix: str, names: Iterable[str], counts: NDArray[np.int64]) -> Numbers:
    """Numbers of a table of counts with a column a name."""
    return {prefix + name: counts[:, place] for place, name in enumerate(names)}


def whole_numbers(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Columns of counts."""
    return {prefix + name: "int64" for name in names}
