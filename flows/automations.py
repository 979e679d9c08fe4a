"""What Prefect's server does by itself: a run whose process is gone is marked as crashed.

Prefect's own server has no such rule until somebody makes it.
"""

from datetime import timedelta

from prefect.automations import (
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import AutomationCore

from flows.deployments import TAG

HEARTBEAT_SECONDS = 30
"""Between two signs of life of a run; the shortest that Prefect allows."""
SILENCE_SECONDS = 75
"""After the last sign of life a run counts as crashed: two were missed. Prefect looks every five
seconds, so that it takes at most 80."""

NAME = "perennial: a run without heartbeat has crashed"


def silence_is_a_crash() -> AutomationCore:
    """The rule, as it should be."""
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
        ),
        after={"prefect.flow-run.heartbeat"},
        # Any word of the run will do: our verdicts give its last event names of their own.
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENCE_SECONDS),
    )
    mark = ChangeFlowRunState(
        name="Crashed",
        state=StateType.CRASHED,
        message=f"no heartbeat for {SILENCE_SECONDS} s: its process is gone, or was cut off.",
        force=False,
    )
    return AutomationCore(
        name=NAME,
        description="Made by 'perennial serve', which mends it whenever it starts.",
        trigger=trigger,
        actions=[mark],
    )


async def ensure_automations() -> None:
    """Create the rule, or make it again what it should be. Safe to repeat."""
    wanted = silence_is_a_crash()
    async with get_client() as client:
        found = await client.read_automations_by_name(NAME)
        if not found:
            await client.create_automation(wanted)
        for rule in found[1:]:
            await client.delete_automation(rule.id)
        # Only when it differs: an update makes the server forget whose heartbeats it waits for.
        if found and _says_else(found[0], wanted):
            await client.update_automation(found[0].id, wanted)


def _says_else(found: AutomationCore, wanted: AutomationCore) -> bool:
    return any(
        getattr(found, name) != getattr(wanted, name)
        for name in ("description", "enabled", "trigger", "actions")
    )
