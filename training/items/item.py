"""One item of a task as a value: what is read, what may follow, what is right. Needs no torch."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["multiple_choice", "cloze", "minimal_pair", "perplexity", "generation"]
"""What makes an answer right.

- ``multiple_choice``: the right choice is the likeliest after its context.
- ``cloze``: every token of the one choice is the likeliest after what is before it.
- ``minimal_pair``: the right one of two or more whole texts is the likeliest.
- ``perplexity``: nothing is right or wrong: ``ItemScore.is_correct`` is False, the nats of the one
  choice, a text of any length, are what counts.
- ``generation``: what the model writes after the context, greedily, is one of the choices.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question as a model gets it: texts, from which scores follow by the rule of ``kind``.

    A choice is appended to its context with ``delimiter`` between them; both are encoded together.

    Raises:
        ValueError: The fields do not fit the kind; names the item.
    """

    id: str
    """Unique in its task."""
    cluster: str
    """Items of one cluster (a passage, a template) are right and wrong together."""
    kind: Kind
    context: str = ""
    """What the model reads before each choice. Empty where the choices are whole texts."""
    choices: tuple[str, ...]
    """Possible answers; of a cloze, a perplexity or a minimal pair the texts; of a generation all
    that counts as right."""
    gold: int = 0
    """Index of the right choice. Of a generation, the one whose nats are told."""
    delimiter: str = ""
    """Stands before each choice, also where the context is empty, and is scored with it;
    ``target_delimiter`` of lm-evaluation-harness, whose own default is a space."""
    contexts: tuple[str, ...] = ()
    """A context for each choice in place of ``context``, where the choice is what is read and not
    what follows (Winogrande)."""
    nats_per: Literal["choice", "character", "byte"] = "choice"
    """What choices are compared by: their nats (``acc``), or these a character (``acc_norm`` of
    lm-evaluation-harness) or byte (``acc_bytes``) of the choice without its delimiter."""
    stop: tuple[str, ...] = ("\n",)
    """Generation ends before the first of these, or with the document."""
    max_new_tokens: int = 32
    """Generation ends after so many tokens."""

    def __post_init__(self) -> None:
        if not self.choices or not all(self.choices):
            raise ValueError(f"item {self.id}: expected choices that are not empty, found {self}")
        if not 0 <= self.gold < len(self.choices):
            raise ValueError(
                f"item {self.id}: gold is {self.gold}, but there are {len(self.choices)} choices"
            )
        if self.contexts and len(self.contexts) != len(self.choices):
            raise ValueError(
                f"item {self.id}: expected one context for each of {len(self.choices)} choices, "
                f"found {len(self.contexts)}"
            )
        if self.max_new_tokens < 1:
            raise ValueError(
                f"item {self.id}: max_new_tokens is {self.max_new_tokens}, not above 0"
            )
        if self.kind in ("cloze", "perplexity") and len(self.choices) != 1:
            raise ValueError(
                f"item {self.id}: a {self.kind} has one choice, found {len(self.choices)}"
            )
        if self.kind in ("minimal_pair", "perplexity") and (self.context or self.contexts):
            raise ValueError(
                f"item {self.id}: the choices of a {self.kind} are whole texts: put the context "
                "into them"
            )

    def context_of(self, choice: int) -> str:
        """What the model reads before ``choice``."""
        return self.contexts[choice] if self.contexts else self.context

    def continuation_of(self, choice: int) -> str:
        """``choice`` as it is appended to its context."""
        return self.delimiter + self.choices[choice]
