"""Refresh alone: read what is new and mint a pending snapshot, without training."""

from pathlib import Path

from prefect import flow

from flows import update_data as data
from flows import update_steps as steps
from flows.ground import open_ground
from flows.naming import run_name
from flows.outcome import Outcome
from flows.schedule import WaitSeconds, WhenBusy
from flows.states import ended
from storage.head import read_head


@flow(name="refresh-data", flow_run_name=run_name, persist_result=False)
def refresh_data(
    lineage_file: Path, *, when_busy: WhenBusy = "wait", wait_seconds: WaitSeconds = 0.0
) -> Outcome:
    """Read what is new in a lineage's sources and mint a pending snapshot, without training.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        when_busy: What to do while another run works on this lineage. wait: wait for it, at
            most wait_seconds. skip: end at once, in the state Skipped.
        wait_seconds: Longest wait for another run, in seconds; what waited in vain has failed.
    """
    ground = open_ground(lineage_file)
    lease = steps.take_lease(ground, when_busy=when_busy, wait_seconds=wait_seconds)
    if isinstance(lease, Outcome):
        return ended(lease)
    with lease:
        result = data.refresh(ground, lease)
        report = data.report_refresh(ground, result)
    head = read_head(ground.store, ground.layout)
    kind = "done" if result.snapshot else "nothing to do"
    message = f"{result.reason}\nreport: {report}" if report else result.reason
    more = {"snapshot": result.snapshot, "report": report, "warnings": result.warnings}
    return ended(steps.outcome(ground, head, kind, message, **more))
