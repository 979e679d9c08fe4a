"""What people are shown of a plan before the first step: lines, and a drawing of its rates."""

from dataclasses import dataclass
from typing import TextIO

from flows.ground import Ground
from storage.head import read_head
from tasks.forecast import forecast
from tasks.memory import describe_memory
from tasks.plan_text import describe
from tasks.update_plan import UpdatePlan
from training.schedule_chart import schedule_chart


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan for people."""

    lines: tuple[str, ...]
    chart: tuple[str, ...]
    """For a font of fixed width; at most 70 columns."""


def view_of(ground: Ground, plan: UpdatePlan, stream: TextIO) -> PlanView:
    """The plan in lines, with the time it will take when that is known, and its chart.

    Args:
        ground: Of the lineage.
        plan: The next update.
        stream: Where the chart will be written; one that has no block characters gets plain ones.
    """
    head = read_head(ground.store, ground.layout)
    asked = ground.lineage.compute.num_workers
    num_workers = max(1, asked if isinstance(asked, int) else asked[1])
    time = (
        forecast(ground.store, ground.layout, head, plan, num_workers) if head is not None else None
    )
    train = plan.train
    chart = schedule_chart(
        train.schedule,
        trunk_step=train.trunk_step,
        batch_tokens=train.global_batch_tokens,
        ascii_only=not can_show_blocks(stream),
    )
    memory = describe_memory(train, ground.lineage.compute)
    return PlanView((*describe(plan), memory, *((time,) if time else ())), tuple(chart))


def can_show_blocks(stream: TextIO) -> bool:
    """Whether the encoding of ``stream`` has the characters of the chart."""
    try:
        "▁█│└─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
