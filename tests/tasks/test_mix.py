import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import Layout
from storage.replay import ReplayManifest, ReplayStratum
from tasks.mix import (
    MAX_REFERENCE_PASSES,
    TOTAL_PARTS,
    NewSlice,
    OldSamples,
    ReplayConfig,
    Shares,
    apportion,
    mix,
    old_samples,
    shares_of,
)

LAYOUT = Layout("test")


def buffer(*samples: int) -> ReplayManifest:
    strata = tuple(
        ReplayStratum(snapshot=f"old{i}", domain="prose", samples=n, available=n * 2)
        for i, n in enumerate(samples)
    )
    return ReplayManifest(id="r", lineage="test", budget_tokens=0, seq_len=8, strata=strata)


def test_the_replay_share_is_exact() -> None:
    mixture = mix(
        LAYOUT, [NewSlice("new", "code", 300)], buffer(70, 30), shares=Shares(0, 0.25), seed=1
    )
    replayed = sum(stream.parts for stream in mixture.streams if stream.is_replay)
    assert replayed * 4 == mixture.total_parts


def test_parts_are_reduced_so_that_the_period_is_short() -> None:
    mixture = mix(LAYOUT, [NewSlice("new", "code", 9)], buffer(5), shares=Shares(0, 0.25), seed=1)
    assert [stream.parts for stream in mixture.streams] == [3, 1]


def test_without_a_buffer_everything_is_new() -> None:
    mixture = mix(LAYOUT, [NewSlice("new", "code", 9)], None, shares=Shares(0, 0.25), seed=1)
    assert [stream.is_replay for stream in mixture.streams] == [False]


def test_a_slice_without_samples_is_no_stream() -> None:
    new = [NewSlice("new", "code", 9), NewSlice("new", "empty", 0)]
    assert [
        stream.domain for stream in mix(LAYOUT, new, None, shares=Shares(0, 0), seed=0).streams
    ] == ["code"]


def test_nothing_new_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="without new training samples"):
        mix(LAYOUT, [NewSlice("new", "code", 0)], buffer(5), shares=Shares(0, 0.5), seed=0)


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
    mixture = mix(LAYOUT, [NewSlice("new", "code", 300)], old, shares=Shares(0, 0.05), seed=1)
    replayed = sum(stream.parts for stream in mixture.streams if stream.is_replay)
    assert len(mixture.streams) == 601
    assert replayed / mixture.total_parts == pytest.approx(0.05, abs=1e-4)


PLENTY = 10**6
"""Samples of a reference that no update passes over four times."""


def test_the_reference_keeps_its_share_however_much_was_learned_since() -> None:
    for own in (1, 10**3, 10**9):
        shares = shares_of(ReplayConfig(), OldSamples(PLENTY, own), beside=PLENTY)
        assert shares.reference == 0.5
        assert shares.own == 0.125


def test_without_a_reference_its_share_says_nothing() -> None:
    config = ReplayConfig(share=0.25, reference_share=0.9)
    assert shares_of(config, OldSamples(0, 10), beside=100) == Shares(0, 0.25)
    assert shares_of(config, OldSamples(0, 0), beside=100) == Shares(0, 0)


def test_before_anything_was_learned_all_replay_is_reference() -> None:
    assert shares_of(ReplayConfig(), OldSamples(PLENTY, 0), beside=100) == Shares(0.5, 0)


def test_a_reference_share_of_zero_replays_it_by_its_size() -> None:
    config = ReplayConfig(share=0.4, reference_share=0.0)
    assert shares_of(config, OldSamples(25, 75), beside=10**9) == Shares(0.1, 0.4 - 0.1)


@given(
    st.floats(min_value=0, max_value=0.99),
    st.floats(min_value=0, max_value=0.99),
    st.integers(min_value=0, max_value=10**12),
    st.integers(min_value=0, max_value=10**12),
    st.floats(min_value=0, max_value=1e12),
)
def test_replay_always_leaves_room_for_new_text_and_passes_over_no_small_reference_often(
    share: float, reference_share: float, reference: int, own: int, beside: float
) -> None:
    config = ReplayConfig(share=share, reference_share=reference_share)
    shares = shares_of(config, OldSamples(reference, own), beside=beside)
    assert min(shares.reference, shares.own) >= 0
    assert shares.reference + shares.own < 1
    by_size = share * reference / max(1, reference + own)
    drawn = beside * shares.reference / (1 - shares.reference)
    assert drawn <= MAX_REFERENCE_PASSES * reference * (1 + 1e-9) or shares.reference <= by_size


def test_the_mixture_has_the_shares_of_reference_and_own_replay() -> None:
    old = buffer(70, 30, 900)
    references = frozenset({"old0", "old1"})
    assert old_samples(old, references) == OldSamples(100, 900)
    mixture = mix(
        LAYOUT,
        [NewSlice("new", "code", 300)],
        old,
        shares=Shares(0.5, 0.125),
        seed=1,
        references=references,
    )
    parts = {stream.snapshot: stream.parts for stream in mixture.streams}
    assert (parts["old0"] + parts["old1"]) * 2 == mixture.total_parts
    assert parts["old2"] * 8 == mixture.total_parts
    assert parts["old0"] / parts["old1"] == pytest.approx(7 / 3, abs=0.01)
    assert all(stream.is_replay for stream in mixture.streams[1:])
