"""How many workers a life of the worker group takes: pure arithmetic.

Any number that divides the global batch trains on the same samples in every step.
"""

from collections.abc import Iterable, Mapping

Workers = tuple[int, int]
"""Fewest and most; equal when the number is fixed."""


def usable_counts(workers: Workers, global_batch_samples: int) -> list[int]:
    """Numbers in the range that share a global batch evenly, rising.

    Raises:
        ValueError: There is none.
    """
    fewest, most = workers
    found = [count for count in range(fewest, most + 1) if global_batch_samples % count == 0]
    if not found:
        between = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ValueError(
            f"{between} workers cannot share the {global_batch_samples} samples of a global batch "
            "evenly: choose a number of workers that divides global_batch_samples"
        )
    return found


def widest(counts: Iterable[int], room: int) -> int | None:
    """The largest of ``counts`` that there is room for."""
    return max((count for count in counts if count <= room), default=None)


def room_in(nodes: Iterable[Mapping[str, float]], per_worker: Mapping[str, float]) -> int:
    """How many workers fit into what each node has free; a worker is on one node."""
    return sum(
        min(int(free.get(kind, 0.0) / amount + 1e-6) for kind, amount in per_worker.items())
        for free in nodes
    )
