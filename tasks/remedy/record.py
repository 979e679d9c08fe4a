"""``updates/<id>/remedies.json``: every attempt to repair a candidate, as soon as it has ended."""

from dataclasses import dataclass

from infra.progress import counted
from storage.errors import NotFoundError
from storage.layout import Layout
from storage.manifest import load, readable_json
from storage.objects import ObjectStore
from tasks.judge.verdict import RemedyAttempt, VerdictReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyRecord:
    """What was tried after an update's FAIL, and what it cost."""

    update: str
    candidate: str
    champion: str
    attempts: tuple[RemedyAttempt, ...] = ()
    """In the order in which they were made."""

    @property
    def seconds(self) -> float:
        """Time that the attempts took together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def trained_tokens(self) -> int:
        """Tokens that the attempts trained on together."""
        return sum(attempt.trained_tokens for attempt in self.attempts)

    @property
    def rescue(self) -> RemedyAttempt | None:
        """The attempt that has passed; it is the last one."""
        return next((attempt for attempt in self.attempts if attempt.verdict == "PASS"), None)


def read_record(store: ObjectStore, layout: Layout, update: str) -> RemedyRecord | None:
    """What is on record of an update's remedies; None when none was tried.

    Raises:
        CorruptError: It was altered.
    """
    try:
        return load(store, layout.remedies(update), RemedyRecord)
    except NotFoundError:
        return None


def write_record(store: ObjectStore, layout: Layout, record: RemedyRecord) -> None:
    """Replace the record by one with more in it; whoever writes holds the lineage's lease."""
    store.put(layout.remedies(record.update), readable_json(record))


def told_remedies(report: VerdictReport) -> list[str]:
    """A line for every attempt: what it was, what came of it, what it cost."""
    return [
        f"remedy {number}: {attempt.name}: {attempt.verdict or 'not judged'}; {attempt.reason} "
        f"({_cost(attempt)})"
        for number, attempt in enumerate(report.remedies, start=1)
    ]


def _cost(attempt: RemedyAttempt) -> str:
    trained = (
        f"{counted(attempt.trained_tokens)} tokens trained, " if attempt.trained_tokens else ""
    )
    return f"{trained}{counted(attempt.scored_tokens)} scored, {attempt.seconds:.0f} s"
