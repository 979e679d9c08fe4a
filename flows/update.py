"""The whole loop for one lineage: refresh, plan, mix, train, check, decide, repair, publish."""

from pathlib import Path

from prefect import flow

from flows import update_data as data
from flows import update_judging as judging
from flows import update_remedies as remedies
from flows import update_steps as steps
from flows.ground import Ground, open_ground
from flows.judging_again import judge_waiting, publish_on_today
from flows.link import link_report
from flows.mirror import told_how_it_ends
from flows.naming import run_name
from flows.outcome import Outcome
from flows.questions import settle_questions
from flows.schedule import WaitSeconds, WhenBusy
from flows.states import ended
from flows.update_planning import CooldownTokens, Wish, plan_update
from storage.lease import Lease
from tasks.plan import NothingToDo
from tasks.unfinished import TakeOver
from training.errors import TrainingStoppedError


@flow(name="update-model", flow_run_name=run_name, persist_result=False)
def update_model(
    lineage_file: Path,
    *,
    dry_run: bool = False,
    take_over: TakeOver = "refuse",
    branch_from: str | None = None,
    cooldown_tokens: CooldownTokens = None,
    when_busy: WhenBusy = "wait",
    wait_seconds: WaitSeconds = 0.0,
) -> Outcome:
    """Bring a lineage's model up to date, if there is anything to learn.

    A run that crashed and is started again goes on from what is committed; a run with
    nothing to do says so.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        dry_run: Stop after the plan: read what is new, say what would be trained on, change
            nothing else.
        take_over: What to do with an update that was left unfinished, when the YAML has changed
            since. refuse: end, naming the fields. continue: go on with everything, under the new
            values from here on. new-phase: its weights, with a new schedule from its start.
            weights-only: the same with fresh moments. nothing: discard it.
        branch_from: A checkpoint, as <update>/step-<n>, to cool down from: the decay of the
            learning rate alone, on the update's own data. The trunk stays at that checkpoint.
        cooldown_tokens: Length of that cool-down; the recipe's decay_fraction of the update if
            empty.
        when_busy: What to do while another run works on this lineage. wait: wait for it, at
            most wait_seconds. skip: end at once, in the state Skipped.
        wait_seconds: Longest wait for another run, in seconds; what waited in vain has failed.
    """
    wish = Wish(take_over=take_over, branch_from=branch_from, cooldown_tokens=cooldown_tokens)
    ground = open_ground(lineage_file)
    lease = steps.take_lease(ground, when_busy=when_busy, wait_seconds=wait_seconds)
    if isinstance(lease, Outcome):
        return ended(lease)
    with lease:
        return ended(_update(ground, lease, wish, dry_run=dry_run))


def _update(ground: Ground, lease: Lease, wish: Wish, *, dry_run: bool) -> Outcome:
    data.import_base_model(ground, lease)
    refreshed = data.refresh(ground, lease)
    data.report_refresh(ground, refreshed)
    data.freeze_tasks(ground, lease)
    judged_again = () if dry_run else judge_waiting(ground, lease)
    plan = plan_update(ground, lease, wish, dry_run=dry_run)
    if isinstance(plan, NothingToDo):
        head = steps.show_in_mlflow(ground, repair=False)
        settle_questions(ground)
        message = "\n".join((*judged_again, f"{plan.reason} ({refreshed.reason})"))
        return steps.outcome(ground, head, "nothing to do", message, warnings=refreshed.warnings)
    warnings = steps.data_warnings(ground, plan, refreshed)
    if dry_run:
        return steps.planned(ground, plan, warnings)
    steps.tell_plan(ground, plan, refreshed)
    data.search_text(ground, plan)
    try:
        with told_how_it_ends(ground, plan):
            checkpoint = steps.checkpoint_of(steps.train(ground, lease, plan))
            judging.export(ground, plan, checkpoint)
            report = judging.check(ground, plan)
            judged = remedies.repaired(ground, lease, plan, report)
            judged = publish_on_today(ground, lease, judged, warnings)
    except TrainingStoppedError as stopped:
        return steps.stopped(ground, str(stopped))
    head = steps.show_in_mlflow(ground)
    settle_questions(ground)
    outcome = judging.judged(ground, head, judged, warnings)
    link_report(ground, outcome)
    return outcome
