"""The order of samples: shares, permutations, locality, speed of access."""

import heapq
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import Mixture, Stream
from training.data.kept_rows import LEAF_ROWS, TABLE_ROWS, kept_rows
from training.data.order import CHUNK_ROWS, WINDOW_CHUNKS, Order, _sequence_of
from training.data.permutation import permute


def stream(name: str, parts: int, samples: int, available: int | None = None) -> Stream:
    available = available or samples
    return Stream(
        snapshot=name,
        domain="web",
        prefix=name,
        parts=parts,
        samples=samples,
        available=available,
        is_replay=samples < available,
    )


def order_of(parts: list[int], batch: int, samples: int = 50) -> Order:
    streams = tuple(stream(f"s{index}", share, samples) for index, share in enumerate(parts))
    return Order(Mixture(streams=streams, seed=3), batch)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_after_every_slot_each_stream_is_within_one_sample_of_its_share(
    parts: list[int], periods: int
) -> None:
    total = sum(parts)
    streams, _ = order_of(parts, total * periods).step(0)
    counts = np.cumsum(streams[:, None] == np.arange(len(parts)), axis=0)
    slots = np.arange(1, total * periods + 1)[:, None]
    # In integers: |count - slots * parts / total| < 1.
    assert (np.abs(counts * total - slots * np.array(parts)) < total).all()
    assert counts[-1].tolist() == [share * periods for share in parts]


def test_a_full_period_of_many_parts_keeps_the_shares() -> None:
    parts = [40000, 20001, 5000, 534, 1]
    streams, _ = order_of(parts, 2**16).step(0)
    counts = np.cumsum(streams[:, None] == np.arange(5), axis=0)
    slots = np.arange(1, 2**16 + 1)[:, None]
    assert (np.abs(counts * 2**16 - slots * np.array(parts)) < 2**16).all()


def earliest_deadline_first(parts: list[int]) -> list[int]:
    """The sequence of streams, slot by slot, from a queue of open jobs."""
    total = sum(parts)
    jobs = sorted(
        (rank * total // share, -(-(rank + 1) * total // share), index)
        for index, share in enumerate(parts)
        for rank in range(share)
    )
    arriving = iter(jobs)
    coming = next(arriving, None)
    open_jobs: list[tuple[int, int]] = []
    taken: list[int] = []
    for slot in range(total):
        while coming is not None and coming[0] <= slot:
            heapq.heappush(open_jobs, coming[1:])
            coming = next(arriving, None)
        taken.append(heapq.heappop(open_jobs)[1])
    return taken


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_the_sequence_is_that_of_earliest_deadline_first(parts: list[int]) -> None:
    sequence, ranks = _sequence_of(tuple(parts))
    assert sequence.tolist() == earliest_deadline_first(parts)
    for index, share in enumerate(parts):
        assert ranks[sequence == index].tolist() == list(range(share))


@pytest.mark.parametrize("parts", [[40000, 20001, 5000, 534, 1], [64536] + [1] * 1000])
def test_the_longest_sequence_is_that_of_earliest_deadline_first(parts: list[int]) -> None:
    assert _sequence_of(tuple(parts))[0].tolist() == earliest_deadline_first(parts)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_steps_are_consecutive_cuts_of_one_sequence(
    parts: list[int], batch: int, step: int
) -> None:
    whole_streams, whole_rows = order_of(parts, batch * (step + 1)).step(0)
    order = order_of(parts, batch)
    streams, rows = order.step(step)
    assert streams.tolist() == whole_streams[-batch:].tolist()
    assert rows.tolist() == whole_rows[-batch:].tolist()
    before = np.bincount(whole_streams[:-batch], minlength=len(parts))
    assert order.counts_before(step).tolist() == before.tolist()


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_a_permutation_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutations_of_other_keys_differ() -> None:
    first, second = (permute(np.arange(1000), 1000, key) for key in (1, 2))
    # Two random permutations agree in one place on average.
    assert (first == second).sum() < 10


def test_a_permutation_sends_an_index_everywhere_equally_often() -> None:
    images = permute(np.zeros(40_000, np.int64), 10, np.arange(40_000, dtype=np.uint64))
    counts = np.bincount(images, minlength=10)
    # Chi-square with 9 degrees of freedom exceeds 27.9 once in a thousand; the keys are fixed.
    assert ((counts - 4000) ** 2 / 4000).sum() < 27.9


@pytest.mark.parametrize("samples", [1, 2, 77, CHUNK_ROWS, CHUNK_ROWS * WINDOW_CHUNKS + 5, 50_000])
def test_every_epoch_holds_every_sample_once_in_another_order(samples: int) -> None:
    order = order_of([1], samples, samples)
    first, second = (order.step(epoch)[1] for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(samples))
    if samples > 2:
        assert (first == second).mean() < 0.1


# Another version of this code must continue a run of this one.
GOLDEN = [(0, 48), (0, 15), (0, 70), (1, 1), (0, 34), (0, 43), (0, 64), (1, 7)]


def test_the_order_is_fixed_for_ever() -> None:
    mixture = Mixture(streams=(stream("a", 3, 100), stream("b", 1, 10, 30)), seed=11)
    streams, rows = Order(mixture, 8).step(1000)
    assert list(zip(streams.tolist(), rows.tolist(), strict=True)) == GOLDEN


# A slice above TABLE_ROWS, of which a part is drawn.
GOLDEN_LARGE = [
    (0, 310325),
    (0, 317408),
    (0, 774452),
    (1, 256653),
    (0, 225732),
    (0, 775496),
    (0, 568630),
    (1, 430134),
]


def test_the_order_of_large_subsets_is_fixed_for_ever() -> None:
    streams = (stream("a", 3, 1_000_000), stream("b", 1, 100_003, 1_000_001))
    streams_of_slots, rows = Order(Mixture(streams=streams, seed=11), 8).step(1000)
    assert list(zip(streams_of_slots.tolist(), rows.tolist(), strict=True)) == GOLDEN_LARGE


def test_a_batch_touches_few_shards_of_a_large_stream() -> None:
    samples, shard_rows = 5_000_000, 2048
    order = order_of([1], 1024, samples)
    for step in (0, 100, 3000):
        _, rows = order.step(step)
        # At most two windows, each chunk turned so that it lies on at most three shards.
        assert len(np.unique(rows // shard_rows)) <= 2 * WINDOW_CHUNKS * 3
    window = np.concatenate([order.step(step)[1] for step in range(16)])
    assert len(np.unique(window)) == len(window)
    assert len(np.unique(window // shard_rows)) <= WINDOW_CHUNKS * 3


@given(st.integers(2, 400), st.data())
@settings(max_examples=50, deadline=None)
def test_a_smaller_replay_share_keeps_a_subset(available: int, data: st.DataObject) -> None:
    more = data.draw(st.integers(1, available))
    fewer = data.draw(st.integers(1, more))
    kept = kept_rows(stream("old", 1, more, available)).tolist()
    assert len(set(kept)) == more
    assert set(kept_rows(stream("old", 7, fewer, available)).tolist()) <= set(kept)


@given(st.integers(TABLE_ROWS + 1, 200_000), st.integers(0, 2**32), st.data())
@settings(max_examples=30, deadline=None)
def test_a_smaller_replay_share_of_a_large_slice_keeps_a_subset(
    available: int, snapshot: int, data: st.DataObject
) -> None:
    more = data.draw(st.integers(1, available) | st.integers(1, 100))
    fewer = data.draw(st.integers(1, more))
    kept = kept_rows(stream(str(snapshot), 1, more, available))
    assert 0 <= kept.min() <= kept.max() < available
    assert len(np.unique(kept)) == more
    assert np.isin(kept_rows(stream(str(snapshot), 7, fewer, available)), kept).all()


@pytest.mark.parametrize("samples", [50, 3_000, 100_000, 639_999])
def test_replay_of_a_large_slice_is_spread_over_all_of_it(samples: int) -> None:
    available, pieces = 640_000, 64
    rows = kept_rows(stream("old", 1, samples, available))
    counts = np.bincount(rows * pieces // available, minlength=pieces)
    # The pieces are nodes of the tree. A random choice would scatter by the root of the count; the
    # tree rounds by less than one at each level, halved at each level below.
    assert np.abs(counts - samples / pieces).max() < 2


def test_replay_of_a_large_slice_is_near_on_disk_when_it_is_near_in_time() -> None:
    samples, available = 200_000, 1_000_000
    rows = kept_rows(stream("old", 1, samples, available))
    for start in range(0, samples - CHUNK_ROWS, 99 * CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        span = CHUNK_ROWS * available // samples
        assert chunk.max() - chunk.min() <= span + 2 * LEAF_ROWS


def test_which_rows_of_a_large_slice_are_kept_depends_on_its_name() -> None:
    first, second = (kept_rows(stream(name, 1, 50_000, 100_000)) for name in "ab")
    # Two independent halves have half of their rows in common.
    assert 24_000 < np.isin(first, second).sum() < 26_000


def test_a_batch_of_two_billion_samples_costs_no_more_memory_than_one_of_ten_thousand() -> None:
    peaks: list[int] = []
    for samples in (10_000, 2_000_000_000):
        streams = (stream("new", 3, samples), stream("old", 1, samples // 5, samples))
        tracemalloc.start()
        order = Order(Mixture(streams=streams, seed=1), 256)
        for step in (0, 7_000_000):
            streams_of_slots, rows = order.step(step)
            assert (rows[streams_of_slots == 1] < samples).all()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 << 20
    assert peaks[1] < 2 * peaks[0]


def test_two_billion_samples_are_all_different() -> None:
    order = order_of([1], 2**16, 2_000_000_000)
    rows = np.concatenate([order.step(step)[1] for step in (0, 1, 2, 30_000)])
    assert len(np.unique(rows)) == len(rows)


def test_nobody_can_write_into_the_order() -> None:
    streams, rows = order_of([1, 2], 8).step(3)
    for array in (streams, rows):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_replay_draws_from_what_is_kept_and_nothing_else() -> None:
    replay = stream("old", 1, 20, 100)
    _, rows = Order(Mixture(streams=(replay,), seed=1), 20).step(4)
    assert sorted(rows.tolist()) == kept_rows(replay).tolist()


def test_other_seeds_order_the_same_samples_differently() -> None:
    streams = (stream("a", 1, 100),)
    first, second = (Order(Mixture(streams=streams, seed=seed), 100).step(0)[1] for seed in (1, 2))
    assert first.tolist() != second.tolist()


def test_a_mixture_with_too_many_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 to 65536 parts in all, got 65537"):
        order_of([2**16, 1], 8)


def test_a_stream_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"web@s0 must draw from 1 to"):
        order_of([1], 8, 0)
