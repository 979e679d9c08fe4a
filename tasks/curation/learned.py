"""What scorers learn, once a refresh, from texts that the lineage names: models and targets.

What is learned is a pure function of the rules and the texts, and the digests of the texts are part
of what identifies a snapshot.
"""

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.curation.champion import Champion


@dataclass(frozen=True, slots=True)
class Learned:
    """Can be pickled, and holds arrays and short samples of text: a few megabytes a section.

    Of the champion it has the place, not the weights.
    """

    models: Mapping[Any, Any] = field(default_factory=dict[Any, Any])
    """By the section of the rules that it was learned for."""
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of the texts, by the URI that names them."""
    champion: "Champion | None" = None
    """What documents are scored by, if a rule asks for it and the lineage has one."""

    def of(self, section: Any) -> Any:
        """What was learned for a section."""
        if section not in self.models:
            raise ValueError(
                f"nothing was learned for {section}: rules that name files need what "
                "tasks.curation.learn.learn_from makes of them"
            )
        return self.models[section]


NOTHING_LEARNED = Learned()


def sample(texts: Iterable[str], count: int, characters: int) -> list[str]:
    """At most ``count`` different texts, cut to ``characters``, in an order that is their own.

    Those of the smallest hashes: a fair sample that does not depend on the order of ``texts``.
    """
    heap: list[tuple[int, str]] = []
    inside: set[int] = set()
    for text in texts:
        # Negative, because the heap gives up its smallest.
        key = -int.from_bytes(hashlib.sha256(text.encode()).digest())
        if key in inside or (len(heap) == count and key <= heap[0][0]):
            continue
        inside.add(key)
        if len(heap) < count:
            heapq.heappush(heap, (key, text[:characters]))
        else:
            inside.discard(heapq.heappushpop(heap, (key, text[:characters]))[0])
    return [text for _, text in sorted(heap, reverse=True)]
