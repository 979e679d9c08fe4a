"""No share is ever above its cap, and nothing goes that could have stayed."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.shares import SOURCE_SHARE, SYNTHETIC_SHARE, KeptTexts, ShareCaps, cap_shares

_SHARES = st.sampled_from([0.1, 0.3, 0.5, 0.9])


@st.composite
def kept_texts(draw: st.DrawFn) -> KeptTexts:
    count = draw(st.integers(1, 40))
    numbers = st.lists(st.integers(0, 2), min_size=count, max_size=count)
    sizes = st.lists(st.integers(0, 30), min_size=count, max_size=count)
    keys = draw(st.permutations(range(count)))
    return KeptTexts(
        domains=np.array(draw(numbers)),
        sources=np.array(draw(numbers)),
        is_synthetic=np.array(draw(numbers)) == 0,
        tokens=np.array(draw(sizes)),
        digests=np.array([f"{key:016}".encode() for key in keys], "S16"),
    )


def share_is_above(texts: KeptTexts, kept: np.ndarray, among: np.ndarray, share: float) -> bool:
    """Whether ``among`` has more of the kept tokens of domain 0 than its share."""
    inside = kept & (texts.domains == 0)
    part = int(texts.tokens[inside & among].sum())
    return part > Fraction(str(share)) * int(texts.tokens[inside].sum())


@given(kept_texts(), _SHARES)
def test_no_more_is_synthetic_than_the_cap_and_any_one_more_would_be(
    texts: KeptTexts, share: float
) -> None:
    reasons = cap_shares(texts, {0: ShareCaps(synthetic=share)})
    kept = reasons == ""
    assert not share_is_above(texts, kept, texts.is_synthetic, share)
    for row in np.flatnonzero(~kept):
        assert reasons[row] == SYNTHETIC_SHARE
        assert texts.domains[row] == 0
        assert texts.is_synthetic[row]
        kept[row] = True
        assert share_is_above(texts, kept, texts.is_synthetic, share)
        kept[row] = False


@given(kept_texts(), _SHARES)
def test_no_source_has_more_than_the_cap_and_any_one_more_would(
    texts: KeptTexts, share: float
) -> None:
    reasons = cap_shares(texts, {0: ShareCaps(source=share)})
    kept = reasons == ""
    for source in range(3):
        assert not share_is_above(texts, kept, texts.sources == source, share)
    for row in np.flatnonzero(~kept):
        assert reasons[row] == SOURCE_SHARE
        assert texts.domains[row] == 0
        kept[row] = True
        assert share_is_above(texts, kept, texts.sources == texts.sources[row], share)
        kept[row] = False


@given(kept_texts(), _SHARES, _SHARES)
def test_both_caps_hold_at_once(texts: KeptTexts, synthetic: float, source: float) -> None:
    reasons = cap_shares(texts, {0: ShareCaps(synthetic=synthetic, source=source)})
    kept = reasons == ""
    assert not share_is_above(texts, kept, texts.is_synthetic, synthetic)
    for number in range(3):
        assert not share_is_above(texts, kept, texts.sources == number, source)
    assert kept[texts.domains != 0].all()


@given(kept_texts(), _SHARES, st.randoms())
def test_the_order_of_the_documents_says_nothing_about_who_goes(
    texts: KeptTexts, share: float, rng: random.Random
) -> None:
    order = np.array(rng.sample(range(len(texts.tokens)), len(texts.tokens)))
    caps = {0: ShareCaps(synthetic=share, source=share), 1: ShareCaps(synthetic=share)}
    shuffled = KeptTexts(
        texts.domains[order],
        texts.sources[order],
        texts.is_synthetic[order],
        texts.tokens[order],
        texts.digests[order],
    )
    assert cap_shares(shuffled, caps).tolist() == cap_shares(texts, caps)[order].tolist()


def _domain(tokens: list[int], *, synthetic: int = 0) -> KeptTexts:
    """Documents of one source each, the first of which are synthetic."""
    count = len(tokens)
    return KeptTexts(
        domains=np.zeros(count, np.int64),
        sources=np.arange(count),
        is_synthetic=np.arange(count) < synthetic,
        tokens=np.array(tokens),
        digests=np.array([f"{number:016}".encode() for number in range(count)], "S16"),
    )


@pytest.mark.parametrize(("last", "reason"), [(3, ""), (4, SYNTHETIC_SHARE)])
def test_at_the_cap_all_stays_and_a_token_above_it_goes(last: int, reason: str) -> None:
    # 30 of 100 tokens, though in binary digits 0.3 is a little less.
    texts = _domain([27, last, 70], synthetic=2)
    assert cap_shares(texts, {0: ShareCaps(synthetic=0.3)}).tolist() == ["", reason, ""]


def test_synthetic_text_without_any_real_one_is_dropped() -> None:
    texts = _domain([10, 10], synthetic=2)
    assert cap_shares(texts, {0: ShareCaps(synthetic=0.9)}).tolist() == [SYNTHETIC_SHARE] * 2


def test_a_document_that_does_not_fit_does_not_keep_smaller_ones_out() -> None:
    texts = _domain([1000, 10, 10, 100], synthetic=3)
    reasons = cap_shares(texts, {0: ShareCaps(synthetic=0.5)})
    assert reasons.tolist() == [SYNTHETIC_SHARE, "", "", ""]


def test_a_flood_of_one_source_is_cut_to_its_share_of_what_is_left() -> None:
    texts = _domain([1] * 900 + [50, 50])
    texts.sources[:900] = 0
    kept = cap_shares(texts, {0: ShareCaps(source=0.4)}) == ""
    # 66 of 166 are at most 0.4 of all, 67 of 167 are more.
    assert (kept[:900].sum(), kept[900:].sum()) == (66, 2)


def test_hundreds_of_thousands_of_documents_take_no_time_to_speak_of() -> None:
    count = 200_000
    rng = np.random.default_rng(0)
    texts = KeptTexts(
        domains=np.zeros(count, np.int64),
        sources=rng.integers(0, 20, count) ** 2 // 40,
        is_synthetic=rng.random(count) < 0.7,
        tokens=rng.integers(0, 5000, count),
        digests=np.frombuffer(rng.bytes(16 * count), "S16"),
    )
    reasons = cap_shares(texts, {0: ShareCaps(synthetic=0.2, source=0.2)})
    kept = reasons == ""
    assert not share_is_above(texts, kept, texts.is_synthetic, 0.2)
