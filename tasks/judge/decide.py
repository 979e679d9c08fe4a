"""Scores to verdict, pure: a win has to be shown, and so has a defeat; the rest is a person's.

PASS is an intersection-union test: every requirement must hold by its own one-sided bound, which
needs no correction. FAIL needs evidence that a requirement is broken, Holm-corrected over all of
them, so that a lineage with many domains is not refused by chance. All requirements have one form:
the candidate's loss minus another model's lies below a margin, ``-min_gain_nats`` on the new data
and ``max_loss_nats`` on the old.
"""

from collections.abc import Sequence
from dataclasses import replace

from tasks.judge.bootstrap import resamples_for
from tasks.judge.domain_rows import comparisons_of, domain_row
from tasks.judge.reasons import (
    doubt,
    remarks,
    success,
    task_doubt,
    task_violation,
    violation,
)
from tasks.judge.task_rows import task_row
from tasks.judge.verdict import (
    CheckConfig,
    DocumentScore,
    DomainRow,
    EarlierScores,
    Health,
    Outcome,
    SliceScores,
    TaskRow,
    TaskScores,
    VerdictReport,
)

__all__ = [
    "CheckConfig",
    "DocumentScore",
    "DomainRow",
    "EarlierScores",
    "Health",
    "SliceScores",
    "VerdictReport",
    "decide",
    "holm",
]


def decide(
    slices: Sequence[SliceScores],
    config: CheckConfig,
    *,
    health: Health,
    candidate: str,
    champion: str | None,
    unguarded_base: bool = False,
    suite: str = "",
    tasks: Sequence[TaskScores] = (),
) -> VerdictReport:
    """Judge ``candidate`` against ``champion`` on the same frozen items.

    Pure: the verdict depends on the scores alone, not on the order of slices or documents.

    Args:
        slices: Old and new ones with both models' scores; without a champion, a unigram's.
        config: Margins and level.
        health: Whether the candidate writes at all.
        candidate: Version under judgement.
        champion: Version in use; None for the first version of a lineage that starts from nothing.
        unguarded_base: The lineage grew from an imported model and has no reference.
        suite: Version of the suite, for the record.
        tasks: Both models' answers to the same items; guarded ones are judged as old slices are.

    Raises:
        ValueError: A model was scored on other documents or items than the candidate, or scores are
            missing.
    """
    comparisons = comparisons_of(slices, config, champion)
    # Holm's correction asks most of the clearest violation: the level over the number of tests.
    guarded = sum(task.is_guarded and champion is not None for task in tasks)
    tests = sum(comparison.margin is not None for comparison in comparisons) + 2 * guarded
    corrected_alpha = config.alpha / max(1, tests)
    resamples = resamples_for(corrected_alpha)
    rows, task_rows = _correct(
        [
            domain_row(
                comparison,
                alpha=config.alpha,
                corrected_alpha=corrected_alpha,
                resamples=resamples,
            )
            for comparison in comparisons
        ],
        [
            task_row(task, config, champion=champion, resamples=resamples)
            for task in sorted(tasks, key=lambda task: task.task)
        ],
        config.alpha,
    )
    unguarded = unguarded_base and not config.accept_unguarded
    verdict, reasons = _conclude(rows, task_rows, health, unguarded, config)
    return VerdictReport(
        verdict=verdict,
        reason=reasons[0],
        reasons=tuple(reasons + remarks(slices, champion, unguarded_base)),
        candidate=candidate,
        champion=champion,
        rows=tuple(rows),
        health=health,
        config=config,
        resamples=resamples,
        suite=suite,
        task_rows=tuple(task_rows),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order of the input.

    Whoever rejects where they are at most alpha makes any error at all with at most that chance.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _correct(
    rows: Sequence[DomainRow], task_rows: Sequence[TaskRow], alpha: float
) -> tuple[list[DomainRow], list[TaskRow]]:
    """Correct the evidence of violations over all tests."""
    losses = [row.p_violated for row in rows]
    falls = [row.p_violated for row in task_rows]
    flips = [row.p_flips_violated for row in task_rows]
    adjusted = iter(_adjusted([*losses, *falls, *flips]))
    by_loss, by_fall, by_flips = ([next(adjusted) for _ in part] for part in (losses, falls, flips))

    def shown(p_value: float | None) -> bool:
        return p_value is not None and p_value <= alpha

    return (
        [
            replace(row, p_violated=p_value, violated=shown(p_value))
            for row, p_value in zip(rows, by_loss, strict=True)
        ],
        [
            replace(
                row,
                p_violated=fall,
                p_flips_violated=flip,
                violated=shown(fall) or shown(flip),
            )
            for row, fall, flip in zip(task_rows, by_fall, by_flips, strict=True)
        ],
    )


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of those that there are."""
    adjusted = iter(holm([value for value in p_values if value is not None]))
    return [None if value is None else next(adjusted) for value in p_values]


def _conclude(
    rows: Sequence[DomainRow],
    task_rows: Sequence[TaskRow],
    health: Health,
    unguarded: bool,
    config: CheckConfig,
) -> tuple[Outcome, list[str]]:
    """The verdict and its reasons, at least one, most important first."""
    broken = [
        f"{row.domain}: held-out scores against {row.against} are not finite numbers"
        for row in rows
        if row.targets and row.difference is None
    ]
    violations = [violation(row) for row in rows if row.violated]
    violations += [task_violation(row, config.alpha) for row in task_rows if row.violated]
    if health.problem:
        # Not capitalize(): it would spell the name of a slice small.
        problem = health.problem[:1].upper() + health.problem[1:] + "."
        return "FAIL", [problem, *broken, *violations]
    if broken or violations:
        return "FAIL", [*broken, *violations]
    tested = [row for row in rows if row.margin is not None]
    guarded = [row for row in task_rows if row.margin is not None]
    doubts = [doubt(row) for row in tested if not row.passed]
    doubts += [task_doubt(row) for row in guarded if not row.passed]
    if not any(row.test == "gain" for row in tested):
        doubts.insert(0, "There is no held-out new text, so no gain can be shown.")
    if unguarded:
        doubts.append(
            "The imported base has no reference, so nobody can see what it forgets; "
            "give a reference, or set accept_unguarded."
        )
    if doubts:
        return "AMBIGUOUS", doubts
    return "PASS", [success(tested, guarded, config)]
