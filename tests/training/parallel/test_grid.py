"""Workers are arranged as the configuration says, or it is refused with the field's name."""

import pytest

from training.parallel.config import ParallelConfig
from training.parallel.grid import Grid, grid_of


def arranged(num_workers: int, machines: list[int] | None = None, **fields: object) -> Grid:
    parallel = ParallelConfig(**fields)  # type: ignore[arg-type]
    return grid_of(parallel, num_workers, lambda: machines or [num_workers])


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (arranged(4), Grid(replicas=4)),
        (arranged(4, strategy="fsdp"), Grid(shards=4)),
        (arranged(1, strategy="fsdp"), Grid()),
        (arranged(4, tensor_parallel=2), Grid(replicas=2, tensor_parallel=2)),
        (arranged(8, strategy="fsdp", tensor_parallel=2), Grid(shards=4, tensor_parallel=2)),
        (arranged(6, [3, 3], strategy="hsdp"), Grid(replicas=2, shards=3)),
        (
            arranged(8, strategy="hsdp", shard_workers=4, tensor_parallel=2),
            Grid(replicas=2, shards=2, tensor_parallel=2),
        ),
    ],
)
def test_workers_are_copies_times_shards_times_those_that_share_a_product(
    grid: Grid, expected: Grid
) -> None:
    assert grid == expected


def test_workers_that_share_products_have_neighbouring_ranks_and_the_same_samples() -> None:
    grid = arranged(8, strategy="fsdp", tensor_parallel=2)
    assert [grid.data_rank(rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert grid.data_parallel == 4
    assert grid.is_spread
    assert not arranged(4).is_spread


@pytest.mark.parametrize(
    ("num_workers", "machines", "fields", "message"),
    [
        (3, [3], {"tensor_parallel": 2}, r"multiple of tensor_parallel 2, found 3: change num_"),
        (1, [1], {"tensor_parallel": 2}, "multiple of tensor_parallel 2, found 1"),
        (6, [6], {"strategy": "hsdp", "shard_workers": 4}, "on 4 workers each, .* found 6 workers"),
        (2, [2], {"strategy": "hsdp", "shard_workers": 4}, "on 4 workers each, .* found 2 workers"),
        (3, [2, 1], {"strategy": "hsdp"}, "the same number of workers, found 2, 1: set shard_work"),
    ],
)
def test_too_few_or_uneven_workers_are_refused_by_the_field(
    num_workers: int, machines: list[int], fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        arranged(num_workers, machines, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard_workers": 4}, "shard_workers 4 goes with strategy hsdp, not with auto"),
        (
            {"strategy": "hsdp", "shard_workers": 3, "tensor_parallel": 2},
            "tensor_parallel 2 must divide shard_workers 3",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused_when_they_are_written(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**fields)  # type: ignore[arg-type]
