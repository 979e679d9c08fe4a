"""What one model made of one item of a task. Needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """The answer of one model to one item, and how probable it held the right one to be."""

    item: str
    """Id of the item, unique in its task."""
    cluster: str
    """Items of one cluster (a passage, a template) are right and wrong together."""
    is_correct: bool
    """By the rule of the task's kind."""
    answer: str
    """What the model chose or wrote, for people who look at what has changed."""
    nats: float
    """Sum of -log p over the tokens of the right answer, after its context."""
    targets: int
    """Tokens of the right answer."""
