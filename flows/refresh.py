"""Refresh alone: read what is new and mint a pending snapshot, without training."""

from pathlib import Path

from prefect import flow

from flows import update_steps as steps
from flows.ground import open_ground
from flows.outcome import Outcome
from storage.head import read_head


@flow(name="refresh-data", persist_result=False)
def refresh_data(lineage_file: Path) -> Outcome:
    """Read what is new in a lineage's sources and mint a pending snapshot.

    Args:
        lineage_file: The lineage's YAML.
    """
    ground = open_ground(lineage_file)
    with steps.hold_lease(ground) as lease:
        result = steps.refresh(ground, lease)
    head = read_head(ground.store, ground.layout)
    kind = "done" if result.snapshot else "nothing to do"
    return steps.outcome(ground, head, kind, result.reason, snapshot=result.snapshot)
