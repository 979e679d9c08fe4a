"""How long the next update will train, from what the lineage's last one has shown."""

from infra.progress import counted, duration
from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from tasks.update_plan import UpdatePlan, load_plan
from training.checkpoint.index import committed_steps
from training.goodput import read_lives
from training.metrics import read_metrics
from training.speed import speed_of

_STEPS_LOOKED_AT = 200


def forecast(
    store: ObjectStore, layout: Layout, head: Head, plan: UpdatePlan, num_workers: int
) -> str | None:
    """One line for people; None when the last update says nothing of this one.

    It must have trained the same model in the same precision on as many workers.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        plan: The next update, begun or not.
        num_workers: The most that it will have.
    """
    speed = _speed_of_last(store, layout, head, plan, num_workers)
    if speed is None:
        return None
    train = plan.train
    done = max(committed_steps(store, train.checkpoint_prefix), default=train.first_step)
    left_tokens = plan.total_tokens - done * train.global_batch_tokens
    left = f" for the {counted(left_tokens)} tokens that are left" if done else ""
    seconds = left_tokens / speed
    minutes = "" if seconds >= 3600 else " min"
    return (
        f"time: about {duration(seconds)}{minutes} at the {speed:,.0f} tokens/s of the last "
        f"update{left}"
    )


def _speed_of_last(
    store: ObjectStore, layout: Layout, head: Head, plan: UpdatePlan, num_workers: int
) -> float | None:
    trained = [
        record
        for record in head.versions
        if record.verdict != "IMPORTED" and not record.merged_from
    ]
    if not trained:
        return None
    update = trained[-1].update
    earlier = load_plan(store, layout, update).train
    if (earlier.model, earlier.precision) != (plan.train.model, plan.train.precision):
        return None
    begun, _ = read_lives(store, layout, update)
    if not begun or begun[-1].num_workers != num_workers:
        return None
    # Of the end of the run, which one life wrote unless it was killed there.
    after = max(0, earlier.num_steps - _STEPS_LOOKED_AT)
    rows = read_metrics(store, layout.metrics(update), after_step=after)
    return speed_of(rows, earlier.global_batch_tokens) or None
