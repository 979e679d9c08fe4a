"""What of an unfinished update's plan today's configuration has changed, field by field. Pure."""

from dataclasses import asdict, dataclass

from tasks.plan import PlanRequest
from tasks.update_plan import BudgetConfig, UpdatePlan
from training.identity import identity_fields
from training.plan_difference import Change, differences, told

_LENGTHS = ("epochs", "tokens", "first_tokens")


class ConfigurationChangedError(ValueError):
    """An update was left unfinished, and today's configuration asks for another training."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An update that was begun, not judged, and that nothing in the lineage has overtaken."""

    plan: UpdatePlan
    step: int
    """Of its newest checkpoint; 0 when there is none."""
    changes: tuple[Change, ...]
    """What today's configuration asks for instead; empty when it asks for just this."""

    def refusal(self) -> str:
        """One sentence: what was changed, and what to do."""
        at = f"(step {self.step:,} of {self.plan.train.num_steps:,})"
        if len(self.changes) == 1:
            form = "{path} is {now}, the unfinished update " + self.plan.id
            what, back = told(self.changes, f"{form} was begun with {{before}} {at}"), "put it back"
        else:
            values = told(self.changes, "{path} is {now} (was {before})")
            what = (
                f"the unfinished update {self.plan.id} {at} was begun with other values: {values}"
            )
            back = "put them back"
        take = ", or go on from it with 'perennial update --take-over continue' (or new-phase, or "
        take = "" if self.is_another_model else f"{take}weights-only)"
        return f"{what}; {back}{take}, or discard it with 'perennial update --take-over nothing'"

    @property
    def is_another_model(self) -> bool:
        """Whether its weights fit nothing that today's configuration asks for."""
        return any(change.path.startswith("base.model") for change in self.changes)


def changes_between(
    begun: UpdatePlan, wanted: UpdatePlan, request: PlanRequest
) -> tuple[Change, ...]:
    """How the plan that was begun differs from what is wanted of the same snapshots today.

    Named after the fields of the lineage's YAML. The streams of a mixture follow from share,
    buffer and seed, so they are named only when nothing else explains that they moved.

    Args:
        begun: The stored plan.
        wanted: From the same snapshots and start, under today's configuration.
        request: That configuration.
    """
    if begun.id == wanted.id:
        return ()
    found = differences(asdict(begun.recipe), asdict(wanted.recipe), "recipe")
    model_now = asdict(wanted.train.model)
    found += differences(asdict(begun.train.model), model_now, "base.model")
    share = request.replay.share
    if begun.train.mixture == wanted.train.mixture:
        pass  # Without a buffer, say, no share changes anything.
    elif begun.replay_share_requested != share:
        found.append(Change("replay.share", begun.replay_share_requested, share))
    elif begun.reference_share_requested != wanted.reference_share_requested:
        before, now = begun.reference_share_requested, wanted.reference_share_requested
        found.append(Change("replay.reference_share", before, now))
    elif begun.replay != wanted.replay:
        found.append(Change("the replay buffer", begun.replay, wanted.replay))
    found += _length_changes(begun, wanted, request.budget, explained=bool(found))
    return tuple(found or _unexplained(begun, wanted))


def _length_changes(
    begun: UpdatePlan, wanted: UpdatePlan, budget: BudgetConfig, *, explained: bool
) -> list[Change]:
    """What of the budget changed, if the length did; batch and share change it as well."""
    if begun.budget is not None:
        before, now = asdict(begun.budget), asdict(budget)
        changed = [name for name in _LENGTHS if before[name] != now[name]]
        if begun.train.num_steps == wanted.train.num_steps:
            changed = []
        return [Change(f"budget.{name}", before[name], now[name]) for name in changed]
    if explained or begun.train.num_steps == wanted.train.num_steps:
        return []
    return [Change("budget (in steps)", begun.train.num_steps, wanted.train.num_steps)]


def _unexplained(begun: UpdatePlan, wanted: UpdatePlan) -> list[Change]:
    """Fields of the training itself, for what no field of the YAML explains."""
    named = {"update", "checkpoint_prefix", "checkpoint_every_steps"}
    before, now = (
        {name: value for name, value in identity_fields(plan.train).items() if name not in named}
        for plan in (begun, wanted)
    )
    return differences(before, now) or [Change("the plan", begun.id, wanted.id)]
