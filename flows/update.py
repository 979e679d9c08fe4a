"""The whole loop for one lineage: refresh, plan, mix, train, check, decide, publish."""

from pathlib import Path

from prefect import flow

from flows import update_steps as steps
from flows.ground import open_ground
from flows.link import link_report
from flows.outcome import Outcome
from tasks.plan import NothingToDo


@flow(name="update-model", persist_result=False)
def update_model(
    lineage_file: Path, *, dry_run: bool = False, wait_seconds: float = 0.0
) -> Outcome:
    """Bring a lineage's model up to date, if there is anything to learn.

    A run that crashed and is started again goes on from what is committed; a run with
    nothing to do says so.

    Args:
        lineage_file: The lineage's YAML.
        dry_run: Stop after the plan.
        wait_seconds: How long to wait while another update of the lineage runs, before giving up.
    """
    ground = open_ground(lineage_file)
    with steps.hold_lease(ground, wait_seconds=wait_seconds) as lease:
        steps.import_base_model(ground, lease)
        refreshed = steps.refresh(ground, lease)
        plan = steps.plan_update(ground, lease, dry_run=dry_run)
        if isinstance(plan, NothingToDo):
            head = steps.show_in_mlflow(ground, repair=False)
            message = f"{plan.reason} ({refreshed.reason})"
            return steps.outcome(ground, head, "nothing to do", message)
        if dry_run:
            return steps.planned(ground, plan)
        checkpoint = steps.train(ground, lease, plan)
        steps.export(ground, plan, checkpoint)
        report = steps.check(ground, plan)
        steps.publish(ground, lease, plan, report)
        head = steps.show_in_mlflow(ground)
    outcome = steps.judged(ground, head, plan, report)
    link_report(ground, outcome)
    return outcome
