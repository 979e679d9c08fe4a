"""May model B replace model A? Scores of any two models on the same texts to an answer, pure.

Losses and answers are judged as ``tasks.judge.decide`` judges those of an update: PASS when the
bound of every domain and task lies within the margin, FAIL when a loss beyond it is shown,
corrected over all of them, or B does not write any more, else AMBIGUOUS. A gain is told and not
demanded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.judge.decide import decide
from tasks.judge.health import Health
from tasks.judge.reasons import task_doubt, task_violation
from tasks.judge.verdict import (
    CheckConfig,
    DocumentScore,
    DomainRow,
    Outcome,
    SliceScores,
    TaskRow,
    TaskScores,
)

Unit = Literal["nats per token", "nats per byte"]
_WELL = Health(finite=True)
Meaning = Literal["better", "worse", "within the margin", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSlice:
    """What both models made of the same documents, in the same order."""

    domain: str
    a: tuple[DocumentScore, ...]
    b: tuple[DocumentScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedDomain:
    """Both models on one domain; losses, change, bounds and margin are in the comparison's unit."""

    domain: str
    documents: int
    clusters: int
    text_bytes: int
    a_loss: float | None
    """None where a score is not a finite number."""
    b_loss: float | None
    a_bits_per_byte: float | None
    b_bits_per_byte: float | None
    change: float | None
    """B minus A: below 0, B is better."""
    lower_bound: float | None
    """One-sided, at ``alpha``; None where the clusters do not determine one."""
    upper_bound: float | None
    """One-sided, at ``alpha``: the bound that is held against the margin."""
    margin: float
    """Largest tolerated change."""
    smallest_detectable_effect: float | None
    """Distance from the margin that would have been shown with a probability of 80 %."""
    p_worse: float | None
    """p-value of "the margin is kept", Holm-corrected: small means shown to be exceeded."""
    meaning: Meaning
    """``better``: the upper bound is below 0. ``worse``: by more than the margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Whether B may replace A, with the evidence."""

    verdict: Outcome
    reason: str
    """One sentence or two."""
    a: str
    b: str
    unit: Unit
    max_loss_nats: float
    """Margin in nats per token; where the unit is the byte, per token of A."""
    alpha: float
    resamples: int
    rows: tuple[ComparedDomain, ...]
    task_rows: tuple[TaskRow, ...] = ()
    """Right and wrong answers; the candidate is B."""
    health: Health = _WELL
    """How both continue the same openings; the candidate is B, the champion A."""


def compare(
    slices: Sequence[ScoredSlice],
    config: CheckConfig,
    *,
    a: str,
    b: str,
    health: Health = _WELL,
    tasks: Sequence[TaskScores] = (),
) -> Comparison:
    """Judge B against A, domain by domain; slices of one domain are taken together.

    Models that cut every document into as many tokens are compared per token. Others are compared
    per byte: both give a probability to the same text, however they cut it. The margin then counts
    per token of A, turned into bytes by how many bytes a token of A has in that domain.

    Args:
        slices: At least one unless there are tasks, each with at least one document.
        config: Its margins of old text and of tasks, and ``alpha``, are used.
        a: Name of the model in use.
        b: Name of the model that is to replace it.
        health: How both write.
        tasks: Both models' answers to the same items; the candidate is B.

    Raises:
        ValueError: There is nothing to compare on, or the models were scored on other documents or
            asked other items.
    """
    if not slices and not tasks:
        raise ValueError("there is no held-out text and no task to compare models on: name some")
    report = decide(
        [
            SliceScores(
                name=item.domain,
                domain=item.domain,
                snapshot="",
                role="old",
                candidate=_per_token_of_a(item),
                champion=item.a,
            )
            for item in slices
        ],
        config,
        health=health,
        candidate=b,
        champion=a,
        tasks=tasks,
    )
    is_per_token = all(
        ours.targets == theirs.targets
        for item in slices
        for ours, theirs in zip(item.a, item.b, strict=True)
    )
    rows = tuple(
        _compared(row, [item for item in slices if item.domain == row.domain], is_per_token)
        for row in report.rows
    )
    # decide() would ask for a gain as well; what it found of the losses is all that counts here.
    asked = [row for row in report.task_rows if row.margin is not None]
    required = [row.passed for row in (*report.rows, *asked)]
    # At chance level nothing can be lost, and nothing shown but that nothing has changed.
    is_unchanged = all(task.candidate == task.champion for task in tasks)
    passed = all(required) if required else is_unchanged
    verdict = "FAIL" if report.verdict == "FAIL" else "PASS" if passed else "AMBIGUOUS"
    comparison = Comparison(
        verdict=verdict,
        reason="",
        a=a,
        b=b,
        unit="nats per token" if is_per_token else "nats per byte",
        max_loss_nats=config.max_loss_nats,
        alpha=config.alpha,
        resamples=report.resamples,
        rows=rows,
        task_rows=report.task_rows,
        health=health,
    )
    return replace(comparison, reason=_reason(comparison))


def _per_token_of_a(item: ScoredSlice) -> tuple[DocumentScore, ...]:
    """B's nats over A's tokens, so that both sums have one denominator."""
    return tuple(
        replace(ours, targets=theirs.targets) for ours, theirs in zip(item.b, item.a, strict=True)
    )


def _compared(row: DomainRow, slices: Sequence[ScoredSlice], is_per_token: bool) -> ComparedDomain:
    text_bytes = sum(score.text_bytes for item in slices for score in item.a)
    per_token = 1.0 if is_per_token else row.targets / text_bytes

    def told(value: float | None) -> float | None:
        return None if value is None else value * per_token

    assert row.margin is not None  # every row is of a loss
    return ComparedDomain(
        domain=row.domain,
        documents=row.documents,
        clusters=row.clusters,
        text_bytes=text_bytes,
        a_loss=told(row.champion_nats_per_token),
        b_loss=told(row.candidate_nats_per_token),
        a_bits_per_byte=row.champion_bits_per_byte,
        b_bits_per_byte=row.candidate_bits_per_byte,
        change=told(row.difference),
        lower_bound=told(row.lower_bound),
        upper_bound=told(row.upper_bound),
        margin=row.margin * per_token,
        smallest_detectable_effect=told(row.smallest_detectable_effect),
        p_worse=row.p_violated,
        meaning=_meaning(row),
    )


def _meaning(row: DomainRow) -> Meaning:
    # A score that is not a number has no difference, and is a failure whoever's it is.
    if row.violated or row.difference is None:
        return "worse"
    if row.upper_bound is not None and row.upper_bound < 0:
        return "better"
    return "within the margin" if row.passed else "cannot tell"


def _reason(found: Comparison) -> str:
    """Why, and what B gained."""
    worse = [row for row in found.rows if row.meaning == "worse"]
    unclear = [row for row in found.rows if row.meaning == "cannot tell"]
    violated = [row for row in found.task_rows if row.violated]
    guarded = [row for row in found.task_rows if row.margin is not None]
    said: list[str] = []
    if found.health.problem:
        said.append(f"B does not write as A does: {found.health.problem}.")
    if worse:
        losses = ", ".join(_loss(row) for row in worse)
        said.append(f"B is worse than A by more than the margin on {losses}.")
    said += [task_violation(row, found.alpha) for row in violated]
    if not said:
        if unclear:
            doubts = ", ".join(_doubt(row) for row in unclear)
            said.append(f"The text does not decide whether B keeps within the margin on {doubts}.")
        said += [task_doubt(row) for row in guarded if not row.passed]
    if not said:
        said += _kept(found, guarded)
    gained = [row.domain for row in found.rows if row.meaning == "better"]
    gained += [row.task for row in found.task_rows if (row.lower_bound or 0.0) > 0]
    better = ", ".join(gained)
    said.append(f"B is {f'better on {better}' if better else 'not shown to be better on any'}.")
    return " ".join(said)


def _kept(found: Comparison, guarded: Sequence[TaskRow]) -> list[str]:
    """What B is shown to have kept, or that nothing could show it."""
    said: list[str] = []
    if found.rows:
        highest = max(row.upper_bound for row in found.rows if row.upper_bound is not None)
        domains = "the domain" if len(found.rows) == 1 else f"each of the {len(found.rows)} domains"
        said.append(
            f"B's loss on {domains} is at most the margin above A's "
            f"(highest bound {_signed(highest)} {found.unit}, {1 - found.alpha:.0%} confident)."
        )
    if guarded:
        lowest = min(row.lower_bound for row in guarded if row.lower_bound is not None)
        tasks = "the task" if len(guarded) == 1 else f"each of the {len(guarded)} tasks"
        said.append(
            f"B's accuracy on {tasks} is at most the margin below A's (lowest bound {lowest:+.1%})."
        )
    if said:
        return said
    if found.verdict == "PASS":
        return ["B answers every item exactly as A does."]
    return ["No task can tell A from a guess, and there is no text: give --text."]


def _loss(row: ComparedDomain) -> str:
    if row.change is None:
        return f"{row.domain} (losses that are not finite numbers)"
    return f"{row.domain} ({_signed(row.change)}, allowed {_signed(row.margin)})"


def _doubt(row: ComparedDomain) -> str:
    if row.upper_bound is None:
        return f"{row.domain} (too few clusters, {row.clusters}: give more documents)"
    return (
        f"{row.domain} (up to {_signed(row.upper_bound)}, allowed {_signed(row.margin)}: give "
        "more documents)"
    )


def _signed(value: float) -> str:
    return f"{value:+.4f}"
