"""The memory that the training of a plan needs, in a line for people."""

from tasks.train import ComputeConfig
from training.cluster.elastic import usable_counts
from training.config import TrainPlan
from training.parallel.choose import cheapest
from training.parallel.memory import estimate


def describe_memory(plan: TrainPlan, compute: ComputeConfig) -> str:
    """What each worker needs; of a range of workers with the fewest, and of ``auto`` the cheapest.

    What ``auto`` comes to is settled where the machines are known, by the workers.
    """
    asked = compute.num_workers
    fewest, most = (max(1, asked), max(1, asked)) if isinstance(asked, int) else asked
    parallel = cheapest(compute.parallel)
    try:
        across = parallel.tensor_parallel
        counts = usable_counts((fewest // across, most // across), plan.global_batch_samples)
        workers = counts[0] * across
        kind = "cuda" if compute.use_gpu else "cpu"
        found = estimate(plan.model, plan, parallel, workers, kind)
    except ValueError as error:
        return f"memory: {error}"
    how = f"{parallel.strategy}, activation checkpointing {parallel.activation_checkpointing}"
    is_open = parallel != compute.parallel
    otherwise = "; where that is too much, the workers choose what fits" if is_open else ""
    return f"memory: {found.describe()}; {how} on {workers} workers{otherwise}"
