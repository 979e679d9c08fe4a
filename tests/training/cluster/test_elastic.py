"""How many workers there is room for, and which numbers can share a batch."""

import pytest

from training.cluster.elastic import room_in, usable_counts, widest
from training.parallel.config import ParallelConfig


def test_only_numbers_in_the_range_that_share_a_batch_evenly_are_used() -> None:
    assert usable_counts((1, 4), 8) == [1, 2, 4]
    assert usable_counts((2, 6), 6) == [2, 3, 6]
    assert usable_counts((4, 4), 8) == [4]


def test_a_range_without_such_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^5 to 7 workers cannot share the 8 samples .* divides"):
        usable_counts((5, 7), 8)
    with pytest.raises(ValueError, match=r"^3 workers cannot share the 8 samples"):
        usable_counts((3, 3), 8)


def test_workers_that_share_a_model_come_in_whole_groups() -> None:
    assert usable_counts((1, 8), 6, ParallelConfig(tensor_parallel=2)) == [2, 4, 6]
    hsdp = ParallelConfig(strategy="hsdp", shard_workers=4, tensor_parallel=2)
    assert usable_counts((1, 16), 8, hsdp) == [4, 8, 16]
    message = r"^3 workers cannot .* choose a multiple of tensor_parallel 2 that, divided by"
    with pytest.raises(ValueError, match=message):
        usable_counts((3, 3), 6, ParallelConfig(tensor_parallel=2))


def test_the_largest_number_that_has_room_is_taken_and_none_when_the_fewest_have_not() -> None:
    assert [widest([2, 4, 8], room) for room in (1, 2, 3, 7, 100)] == [None, 2, 2, 4, 8]


def test_a_worker_needs_all_its_room_on_one_machine() -> None:
    half_free = {"CPU": 1.5, "memory": 1e9}
    assert room_in([half_free, half_free], {"CPU": 1}) == 2
    assert (
        room_in([{"CPU": 8, "GPU": 1}, {"CPU": 1, "GPU": 4}, {"CPU": 9}], {"CPU": 1, "GPU": 1}) == 2
    )
    assert room_in([{"CPU": 2.9999999999}], {"CPU": 1}) == 3
    assert room_in([], {"CPU": 1}) == 0
