"""The sentences of a verdict: numbers of its rows in words."""

from collections.abc import Sequence

from tasks.judge.verdict import CheckConfig, DomainRow, SliceScores, TaskRow


def success(tested: Sequence[DomainRow], guarded: Sequence[TaskRow], config: CheckConfig) -> str:
    """What was gained, and the most that any old domain or guarded task may have lost."""
    gain = next(row for row in tested if row.test == "gain")
    losses = [row for row in tested if row.test == "loss"]
    assert gain.difference is not None  # a passed row has a difference and an upper bound
    assert gain.upper_bound is not None
    sentence = (
        f"Held-out loss on the new data is {-gain.difference:.3f} nats per token below "
        f"{gain.against}'s "
        f"({1 - config.alpha:.0%} confident of at least {-gain.upper_bound:.3f})"
    )
    if guarded:
        lowest = min(row.lower_bound for row in guarded if row.lower_bound is not None)
        tasks = "the guarded task" if len(guarded) == 1 else f"{len(guarded)} guarded tasks"
        sentence += f", accuracy on {tasks} changed by no less than {lowest:+.1%}"
    if not losses:
        return sentence + "."
    worst = max(row.upper_bound for row in losses if row.upper_bound is not None)
    domains = "the old domain" if len(losses) == 1 else f"none of the {len(losses)} old domains"
    verb = "did not lose" if len(losses) == 1 else "lost"
    return (
        f"{sentence}, and {domains} {verb} more than the allowed {config.max_loss_nats:g} "
        f"(highest bound {worst:+.3f})."
    )


def violation(row: DomainRow) -> str:
    """A requirement that is shown to be broken."""
    assert row.difference is not None  # without a difference there is no evidence
    assert row.margin is not None
    if row.test == "gain":
        return (
            f"The gain on the new data over {row.against} is {0 - row.difference:.3f} nats per "
            f"token, shown to be below the required {-row.margin:g}."
        )
    best = ", the best so far" if row.test == "cumulative" else ""
    return (
        f"{row.domain}: held-out loss is {row.difference:.3f} nats per token above that of "
        f"{row.against}{best}, shown to be more than the allowed {row.margin:g}."
    )


def doubt(row: DomainRow) -> str:
    """A requirement that is neither shown to hold nor to be broken, and what could be seen."""
    assert row.margin is not None  # only tested rows are doubted
    if row.upper_bound is None:
        return (
            f"{row.domain}: {row.clusters} clusters with {row.targets:,} targets are too few to "
            f"bound the difference from {row.against}; hold out more text."
        )
    seen = f"effects of {row.smallest_detectable_effect or 0.0:.3f} could be seen"
    if row.test == "gain":
        return (
            f"The gain on the new data over {row.against} may be as low as {-row.upper_bound:.3f} "
            f"nats per token, above {-row.margin:g} is required ({seen})."
        )
    best = ", the best so far" if row.test == "cumulative" else ""
    return (
        f"{row.domain}: held-out loss may be up to {row.upper_bound:.3f} nats per token above that "
        f"of {row.against}{best}, {row.margin:g} is allowed ({seen})."
    )


def task_violation(row: TaskRow, alpha: float) -> str:
    """A task whose accuracy fell, or whose answers flipped, by more than is allowed."""
    assert row.margin is not None  # without a margin there is no evidence
    assert row.max_negative_flips is not None
    if row.p_violated is not None and row.p_violated <= alpha:
        assert row.difference is not None
        return (
            f"Task {row.task}: accuracy is {-row.difference:.1%} of the items below "
            f"{row.against}'s, shown to be more than the allowed {row.margin:.1%}."
        )
    return (
        f"Task {row.task}: {row.negative_flips} of {row.items} items that {row.against} had right "
        f"are wrong now, shown to be more than the allowed {row.max_negative_flips:.1%}."
    )


def task_doubt(row: TaskRow) -> str:
    """A guarded task of which it is not shown that its accuracy was kept."""
    assert row.margin is not None  # only guarded tasks are doubted
    if row.lower_bound is None:
        return (
            f"Task {row.task}: {row.items} items in {row.clusters} clusters are too few to bound "
            f"the change of accuracy since {row.against}; add items, or do not guard it."
        )
    return (
        f"Task {row.task}: accuracy may be up to {-row.lower_bound:.1%} of the items below "
        f"{row.against}'s, {row.margin:.1%} is allowed "
        f"(effects of {row.smallest_detectable_effect or 0.0:.1%} could be seen)."
    )


def remarks(slices: Sequence[SliceScores], champion: str | None, unguarded_base: bool) -> list[str]:
    """What limits the verdict without deciding it."""
    remarks: list[str] = []
    if champion is None:
        remarks.append("First version of the lineage: compared with a unigram model.")
    elif not any(item.role == "old" for item in slices):
        remarks.append("No old slices are guarded: a loss of old knowledge would not be seen.")
    if unguarded_base:
        remarks.append("What the imported base knew is not guarded: the lineage has no reference.")
    return remarks
