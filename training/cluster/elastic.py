"""How many workers a life of the worker group takes: pure arithmetic.

Any number that divides the global batch trains on the same samples in every step.
"""

from collections.abc import Iterable, Mapping

from training.parallel.config import ParallelConfig

Workers = tuple[int, int]
"""Fewest and most; equal when the number is fixed."""


def usable_counts(
    workers: Workers, global_batch_samples: int, parallel: ParallelConfig | None = None
) -> list[int]:
    """Numbers in the range that share a global batch, and the model, evenly; rising.

    Raises:
        ValueError: There is none.
    """
    parallel = parallel or ParallelConfig()
    fewest, most = workers
    across, multiple = parallel.tensor_parallel, parallel.worker_multiple
    found = [
        count
        for count in range(fewest, most + 1)
        if count % multiple == 0 and global_batch_samples % (count // across) == 0
    ]
    if not found:
        between = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        rule = "a number of workers that divides global_batch_samples"
        if multiple > 1:
            name = "shard_workers" if parallel.shard_workers else "tensor_parallel"
            rule = f"a multiple of {name} {multiple} that, divided by tensor_parallel {across}, "
            rule += "divides global_batch_samples"
        raise ValueError(
            f"{between} workers cannot share the {global_batch_samples} samples of a global batch "
            f"evenly: choose {rule}"
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
