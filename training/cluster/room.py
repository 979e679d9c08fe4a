"""Room in the cluster: how many workers fit, and waiting for it."""

import threading
import time
from typing import Any

from training.cluster.elastic import room_in, widest
from training.cluster.run import Job
from training.errors import TrainingError

_SETTLE_SECONDS = 3.0
"""How long room for fewer workers than the most must be all there is, before they are taken."""
_POLL_SECONDS = 0.25


def room_for(counts: list[int], job: Job, stop: threading.Event, wait_seconds: float) -> int | None:
    """The number of workers to start; None when a stop came first.

    What another life of ours has just left is free again after a moment: fewer workers than the
    most are not taken at once.
    """
    if len(counts) == 1:
        # Ray waits for room.
        return None if stop.is_set() else counts[0]
    give_up_at = time.monotonic() + wait_seconds
    best: int | None = None
    since = time.monotonic()
    while not stop.wait(_POLL_SECONDS):
        now = time.monotonic()
        found = widest(counts, free_room(job))
        if found == counts[-1]:
            return found
        if found != best:
            best, since = found, now
        elif found is not None and now - since >= _SETTLE_SECONDS:
            return found
        elif found is None and now - since >= _SETTLE_SECONDS and now >= give_up_at:
            raise TrainingError(no_room(job, counts, wait_seconds))
    return None


def free_room(job: Job) -> int:
    """How many workers fit into the cluster beside what runs there now."""
    import ray  # noqa: PLC0415  heavy
    from ray._private import state  # noqa: PLC0415  there is no public view by node

    living = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - draining_nodes()
    free = state.available_resources_per_node()
    return room_in((free[node] for node in living if node in free), job.resources)


def draining_nodes() -> set[str]:
    """Machines that have heard SIGTERM, or that somebody drains; they take nothing new."""
    from ray._private import state  # noqa: PLC0415  as Ray Train's own watcher does it

    return set(state.state.get_draining_nodes())


def no_room(job: Job, counts: list[int], wait_seconds: float) -> str:
    """What is missing, in one sentence."""
    import ray  # noqa: PLC0415  heavy

    nodes: list[dict[str, Any]] = ray.nodes()
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    found = " and ".join(
        f"{sum(node.get(kind, 0) for node in alive):g} {kind}" for kind in job.resources
    )
    return (
        f"{job.plan.update} needs room for {counts[0]} workers within {wait_seconds:g} s, and "
        f"the {len(alive)} machines of the cluster have {found} in all, other jobs included; add "
        "machines, or run it again with a lower compute.num_workers: it goes on from the newest "
        "checkpoint"
    )
