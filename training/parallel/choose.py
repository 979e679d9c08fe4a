"""What ``auto`` comes to: the cheapest way to spread a model that fits. Needs no torch."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from training.config import TrainPlan
from training.parallel.config import ParallelConfig
from training.parallel.memory import GIB, estimate

_MARGIN = 1.1
"""The estimate may be off by a tenth, see docs/results/memory.md."""
_Strategy = Literal["auto", "ddp", "fsdp", "hsdp"]
_Again = Literal["auto", "none", "selective", "full"]


def choose(
    plan: TrainPlan,
    parallel: ParallelConfig,
    world_size: int,
    bytes_free_per_worker: int,
    *,
    device_type: Literal["cpu", "cuda"],
) -> ParallelConfig:
    """``parallel`` with concrete values in the place of ``auto``; the first that fits.

    What is set is kept, and nothing else is tried when nothing is ``auto``; so a configuration that
    a person settled is never changed or refused on an estimate's word.

    Args:
        plan: What is trained.
        parallel: What is wished.
        world_size: Workers; must divide the plan's global batch.
        bytes_free_per_worker: Of the device, before there is a model; the least over all workers,
            so that all of them choose alike.
        device_type: Where the model will be.

    Raises:
        ValueError: Nothing fits; says how much is needed at the least, and what to change.
    """
    candidates = list(_candidates(parallel, world_size))
    if candidates == [parallel]:
        return parallel
    for candidate in candidates:
        if _needed(plan, candidate, world_size, device_type) <= bytes_free_per_worker:
            return candidate
    least = min(candidates, key=lambda each: _needed(plan, each, world_size, device_type))
    raise ValueError(_refusal(plan, least, world_size, bytes_free_per_worker, device_type))


def cheapest(parallel: ParallelConfig) -> ParallelConfig:
    """What ``auto`` comes to where there is memory enough."""
    return next(_candidates(parallel, 1))


def _candidates(parallel: ParallelConfig, world_size: int) -> Iterator[ParallelConfig]:
    """The cheapest first: nothing again, products and attention kept, sharded, whole blocks again.

    Gathering the weights of FSDP2 hides behind the computation; computing a whole block again costs
    a third more.
    """
    strategies: list[_Strategy] = [parallel.strategy]
    if parallel.strategy == "auto":
        is_alone = world_size == parallel.tensor_parallel
        strategies = ["ddp"] if is_alone else ["ddp", "fsdp"]
    wished = parallel.activation_checkpointing
    kinds: list[_Again] = ["none", "selective", "full"] if wished == "auto" else [wished]
    for strategy in strategies:
        is_last = strategy == strategies[-1]
        for kind in kinds if is_last or len(kinds) == 1 else kinds[:-1]:
            yield replace(parallel, strategy=strategy, activation_checkpointing=kind)


def _needed(
    plan: TrainPlan,
    parallel: ParallelConfig,
    world_size: int,
    device_type: Literal["cpu", "cuda"],
) -> int:
    """Bytes, with room for what the estimate misses."""
    found = estimate(plan.model, plan, parallel, world_size, device_type)
    return int(_MARGIN * found.total)


def _refusal(
    plan: TrainPlan,
    least: ParallelConfig,
    world_size: int,
    bytes_free: int,
    device_type: Literal["cpu", "cuda"],
) -> str:
    needed = _needed(plan, least, world_size, device_type)
    smaller = plan.micro_batch_size
    remedy = "take more workers, larger machines or a smaller model"
    while smaller > 1:
        smaller //= 2
        lighter = replace(plan, micro_batch_size=smaller)
        if _needed(lighter, least, world_size, device_type) <= bytes_free:
            remedy = f"lower recipe.micro_batch_size from {plan.micro_batch_size} to {smaller}"
            break
    return (
        f"training needs {needed / GIB:.2f} GiB of free memory a worker, with strategy "
        f"{least.strategy} and activation_checkpointing {least.activation_checkpointing} and a "
        f"margin of {_MARGIN - 1:.0%}, and has {bytes_free / GIB:.2f} GiB: {remedy}"
    )
