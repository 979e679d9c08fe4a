"""The order of samples: shares, permutations, locality, speed of access."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import Mixture, Stream
from training.order import CHUNK_ROWS, WINDOW_CHUNKS, Order, kept_rows, permute


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
