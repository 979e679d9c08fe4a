import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import Layout
from storage.replay import ReplayManifest, ReplayStratum
from tasks.mix import TOTAL_PARTS, NewSlice, apportion, mix

LAYOUT = Layout("test")


def buffer(*samples: int) -> ReplayManifest:
    strata = tuple(
        ReplayStratum(snapshot=f"old{i}", domain="prose", samples=n, available=n * 2)
        for i, n in enumerate(samples)
    )
    return ReplayManifest(id="r", lineage="test", budget_tokens=0, seq_len=8, strata=strata)


def test_the_replay_share_is_exact() -> None:
    mixture = mix(LAYOUT, [NewSlice("new", "code", 300)], buffer(70, 30), replay_share=0.25, seed=1)
    replayed = sum(stream.parts for stream in mixture.streams if stream.is_replay)
    assert replayed * 4 == mixture.total_parts


def test_parts_are_reduced_so_that_the_period_is_short() -> None:
    mixture = mix(LAYOUT, [NewSlice("new", "code", 9)], buffer(5), replay_share=0.25, seed=1)
    assert [stream.parts for stream in mixture.streams] == [3, 1]


def test_without_a_buffer_everything_is_new() -> None:
    mixture = mix(LAYOUT, [NewSlice("new", "code", 9)], None, replay_share=0.25, seed=1)
    assert [stream.is_replay for stream in mixture.streams] == [False]


def test_a_slice_without_samples_is_no_stream() -> None:
    new = [NewSlice("new", "code", 9), NewSlice("new", "empty", 0)]
    assert [stream.domain for stream in mix(LAYOUT, new, None, replay_share=0, seed=0).streams] == [
        "code"
    ]


def test_nothing_new_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="without new training samples"):
        mix(LAYOUT, [NewSlice("new", "code", 0)], buffer(5), replay_share=0.5, seed=0)


@given(
    st.lists(st.integers(min_value=1, max_value=10**9), min_size=1, max_size=60),
    st.integers(min_value=60, max_value=TOTAL_PARTS),
)
def test_parts_sum_exactly_and_nobody_is_left_out(weights: list[int], total: int) -> None:
    parts = apportion(weights, total)
    assert sum(parts) == total
    assert min(parts) >= 1
    # Proportional to within one part of what is left after the one that everybody gets.
    free = total - len(weights)
    for weight, part in zip(weights, parts, strict=True):
        assert abs(part - 1 - weight * free / sum(weights)) < 1 + 1e-6


def test_more_streams_than_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="5 streams cannot share 4 parts"):
        apportion([1] * 5, 4)


def test_many_strata_get_a_finer_mixture_and_keep_the_share() -> None:
    old = buffer(*[10] * 600)
    mixture = mix(LAYOUT, [NewSlice("new", "code", 300)], old, replay_share=0.05, seed=1)
    replayed = sum(stream.parts for stream in mixture.streams if stream.is_replay)
    assert len(mixture.streams) == 601
    assert replayed / mixture.total_parts == pytest.approx(0.05, abs=1e-4)
