"""The verdict card: what a reviewer must know within a minute, the same in MLflow and the report.

Pure. A card is a few lines with a title each, plain text; whoever shows it escapes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.progress import counted, duration
from tasks.judge.health import Writing
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import ALL_NEW, DomainRow, TaskRow, VerdictReport
from tasks.plan_text import describe_schedule
from tasks.update_plan import UpdatePlan
from training.goodput import Goodput

_FEW = 4
"""Domains named in a line; how many more there are is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLine:
    """One line of the card."""

    title: str
    texts: tuple[str, ...]
    """One or more, each of one thing."""


def card_of(
    report: VerdictReport,
    plan: UpdatePlan | None,
    *,
    domains: Sequence[str] = (),
    goodput: Goodput | None = None,
) -> list[CardLine]:
    """The card of a verdict.

    Args:
        report: The verdict.
        plan: Of its update; None when it is not there any more.
        domains: Of the new data.
        goodput: Where the time of the training went, if that was kept.
    """
    judged = [row for row in report.rows if row.test in ("gain", "loss")]
    judged = [row for row in judged if row.difference is not None]
    better = sorted((row for row in judged if _change(row) < 0), key=_importance)
    worse = sorted((row for row in judged if _change(row) >= 0), key=_importance)
    lines = [
        CardLine(title="Better", texts=_named(better, report.config.alpha)),
        CardLine(title="Worse", texts=_named(worse, report.config.alpha)),
        *([CardLine(title="Tasks", texts=_tasks(report))] if report.task_rows else []),
        CardLine(title="How sure", texts=(_how_sure(report),)),
    ]
    if plan is not None:
        lines += [
            CardLine(title="Data in", texts=(_data_in(plan, domains),)),
            CardLine(title="Recipe", texts=(_recipe(plan),)),
            CardLine(title="Cost", texts=(_cost(plan, goodput),)),
        ]
    lines.append(CardLine(title="Unguarded", texts=_unguarded(report, plan)))
    signs = _signs(report)
    if signs:
        lines.append(CardLine(title="Other signs", texts=signs))
    return lines


def change_of(row: DomainRow, alpha: float) -> str:
    """One comparison in words: both losses, the change, and how sure of at most how much."""
    assert row.difference is not None  # what has no difference is not on the card
    name = row.domain if row.domain == ALL_NEW else f"{row.role} {row.domain}"
    before, now = row.champion_nats_per_token, row.candidate_nats_per_token
    change = f"{signed(row.difference)} nats/token"
    if before is not None and now is not None:
        change = f"{before:.3f} to {now:.3f} nats/token ({signed(row.difference)})"
    if row.margin is None:
        return f"{name}, {change}"
    asked = f"up to {row.margin:.3f} worse is tolerated"
    if row.test == "gain":
        asked = f"more than {-row.margin:.3f} better is required"
    bound = "not bounded"
    if row.upper_bound is not None:
        most = f"at most {row.upper_bound:.3f} worse"
        least = f"at least {-row.upper_bound:.3f} better"
        bound = f"{1 - alpha:.0%} sure of {least if row.upper_bound < 0 else most}"
    return f"{name}, {change}, {bound}; {asked}"


def signed(value: float) -> str:
    """Three decimals with their sign; what rounds to 0 has none."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _change(row: DomainRow) -> float:
    return row.difference if row.difference is not None else 0.0


def _importance(row: DomainRow) -> tuple[bool, float, str]:
    """The gain first, then the largest changes."""
    return row.test != "gain", -abs(_change(row)), row.domain


def _named(rows: Sequence[DomainRow], alpha: float) -> tuple[str, ...]:
    if not rows:
        return ("nothing",)
    named = [change_of(row, alpha) for row in rows[:_FEW]]
    if len(rows) > _FEW:
        named.append(f"and {len(rows) - _FEW} more, by {signed(_change(rows[_FEW]))} at most")
    return tuple(named)


def _tasks(report: VerdictReport) -> tuple[str, ...]:
    """What fell most first."""
    rows = [row for row in report.task_rows if row.difference is not None]
    rows.sort(key=lambda row: (not row.violated, row.difference, row.task))
    told = [_task(row) for row in rows[:_FEW]]
    if len(rows) > _FEW:
        told.append(f"and {len(rows) - _FEW} more")
    return tuple(told) or ("no item was scored",)


def _task(row: TaskRow) -> str:
    assert row.candidate_accuracy is not None  # there is one where there is a difference
    assert row.champion_accuracy is not None
    state = ""
    if row.margin is not None:
        state = ", a fall beyond what is tolerated" if row.violated else ""
        state = state or ("" if row.passed else ", not shown to be kept")
    return (
        f"{row.task}, {row.champion_accuracy:.1%} to {row.candidate_accuracy:.1%} right, "
        f"{row.negative_flips:,} of {row.items:,} right before and wrong now{state}"
    )


def _how_sure(report: VerdictReport) -> str:
    tested = [row for row in report.rows if row.margin is not None]
    if not tested:
        return "nothing was tested"
    clusters = sorted(row.clusters for row in tested)
    seen = [row.smallest_detectable_effect for row in tested]
    known = [effect for effect in seen if effect is not None]
    smallest = f"; changes of {max(known):.3f} nats/token could be seen on each" if known else ""
    many = (
        f"{clusters[0]:,}"
        if clusters[0] == clusters[-1]
        else f"{clusters[0]:,} to {clusters[-1]:,}"
    )
    return (
        f"{1 - report.config.alpha:.0%} one-sided bounds over {many} clusters of documents"
        f"{smallest}"
    )


def _data_in(plan: UpdatePlan, domains: Sequence[str]) -> str:
    named = f" of {_list(domains)}" if domains else ""
    replay = f", {plan.replay_share:.1%} replay" if plan.replay else ", no replay"
    snapshots = _list([snapshot[:12] for snapshot in plan.snapshots])
    return f"{counted(plan.new_tokens)} new tokens{named} ({snapshots}){replay}"


def _recipe(plan: UpdatePlan) -> str:
    train = plan.train
    text = (
        f"{train.num_steps:,} steps of {counted(train.global_batch_tokens)} tokens; "
        f"{describe_schedule(train.schedule)}"
    )
    origin = train.taken_over
    if origin is not None:
        text += f"; begun with step {origin.step:,} of update {origin.update} ({origin.mode})"
    if plan.remedy_of:
        merged = f", merged from {' and '.join(plan.merged_from)}" if plan.merged_from else ""
        text += f"; repairs {plan.remedy_of}, which failed: {plan.remedy}{merged}"
    return text


def _cost(plan: UpdatePlan, goodput: Goodput | None) -> str:
    tokens = f"{counted(plan.total_tokens)} tokens trained"
    if goodput is None:
        return tokens
    return (
        f"{tokens} in {_minutes(goodput.wall_seconds)}, {goodput.productive_share:.0%} of it in "
        "steps that count"
    )


def _minutes(seconds: float) -> str:
    return duration(seconds) + (" min" if seconds < 3600 else "")


def _unguarded(report: VerdictReport, plan: UpdatePlan | None) -> tuple[str, ...]:
    """What the verdict does not see."""
    planned = plan.unguarded if plan is not None else ()
    informing = [row.domain for row in report.rows if row.role == "old" and row.test == "shown"]
    found = list(planned)
    if informing and not planned:
        found.append(f"{_list(informing)}: shown, and no verdict depends on it")
    if len(found) > _FEW:
        found[_FEW:] = [f"and {len(found) - _FEW} more"]
    return tuple(found) or ("nothing that is known of",)


def _signs(report: VerdictReport) -> tuple[str, ...]:
    numbers, signs = report.numbers or Numbers(), list[str]()
    found = numbers.forgetting
    if found is not None and found.worst_forgetting is not None:
        assert found.mean_forgetting is not None  # there is a worst only where there is a mean
        signs.append(
            f"forgetting since the best version: {found.mean_forgetting:.3f} nats/token on "
            f"average, {found.worst_forgetting:.3f} at worst ({found.worst_slice})"
        )
    if numbers.drift is not None and numbers.drift.total is not None:
        signs.append(f"the weights moved by {numbers.drift.total:.1%}")
    candidate, champion = report.health.candidate, report.health.champion
    if candidate is not None and candidate.rep_4 is not None:
        signs.append(f"repeated 4-grams when it writes: {_repeats(candidate, champion)}")
    if numbers.calibration is not None:
        before = numbers.champion_calibration
        was = f", {before.expected_error:.1%} before" if before is not None else ""
        signs.append(f"calibration error {numbers.calibration.expected_error:.1%}{was}")
    return tuple(signs)


def _repeats(candidate: Writing, champion: Writing | None) -> str:
    was = champion.rep_4 if champion is not None else None
    return f"{candidate.rep_4:.0%}" + (f", {was:.0%} before" if was is not None else "")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_FEW])
    return shown if len(names) <= _FEW else f"{shown} and {len(names) - _FEW} more"
