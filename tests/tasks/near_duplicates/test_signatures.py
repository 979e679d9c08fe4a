import hashlib
import random
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.near_duplicate_segment import SignatureScheme
from tasks.near_duplicates.characters import (
    IGNORED,
    LONGER,
    NUM_FOLDED,
    OWN_UNIT,
    SEPARATOR,
    fold_table,
    longer_table,
)
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.signatures import minima_of, signatures_of

_SCHEME = NearDuplicateConfig().scheme
_TEXTS = (
    st.text(
        st.sampled_from(
            "aB1 \n.-\u00df\u1e9e\u0130\ufb03\u00e9\u00c9\u0416\u0636"
            "\u200d\u4e2d\u6587\u30ab\uff21\U0001f600"
        )
    )
    | st.text()
)


def _scheme(ngram: int, bands: int = 14, rows: int = 8, seed: int = 1) -> SignatureScheme:
    return SignatureScheme(method=1, ngram=ngram, bands=bands, rows=rows, seed=seed)


def _units(text: str) -> list[tuple[int, ...]]:
    """The units of a text, cut one character after the other by the definition."""
    table = fold_table()
    units: list[tuple[int, ...]] = []
    word: list[int] = []
    for character in text + " ":
        code = ord(character)
        folded = int(table[code]) if code < NUM_FOLDED else code | OWN_UNIT
        if folded == IGNORED:
            continue
        if folded == SEPARATOR or folded & OWN_UNIT:
            units += [tuple(word)] if word else []
            word = []
            units += [(folded,)] if folded else []
        elif folded >= LONGER:
            word += [letter for letter in longer_table()[folded - LONGER].tolist() if letter]
        else:
            word.append(folded)
    return units


def _shingles(text: str, ngram: int) -> list[tuple[tuple[int, ...], ...]]:
    units = _units(text)
    length = min(ngram, len(units))
    return [tuple(units[i : i + length]) for i in range(len(units) - length + 1)] if units else []


def _jaccard(one: str, other: str, ngram: int) -> float:
    first, second = set(_shingles(one, ngram)), set(_shingles(other, ngram))
    return len(first & second) / len(first | second)


@given(_TEXTS, st.integers(1, 4))
def test_a_text_has_a_shingle_for_every_n_units_in_a_row(text: str, ngram: int) -> None:
    _, counts = minima_of([text], _scheme(ngram))
    assert counts.tolist() == [len(_shingles(text, ngram))]


@given(_TEXTS, _TEXTS, st.integers(1, 3))
def test_signatures_are_equal_exactly_where_sets_of_shingles_are(
    one: str, other: str, ngram: int
) -> None:
    minima, _ = minima_of([one, other], _scheme(ngram))
    is_same = set(_shingles(one, ngram)) == set(_shingles(other, ngram))
    assert np.array_equal(minima[0], minima[1]) == is_same


@given(st.lists(_TEXTS, max_size=5))
def test_a_signature_depends_on_its_own_text_alone(texts: list[str]) -> None:
    together = signatures_of(texts, _SCHEME)
    for index, text in enumerate(texts):
        alone = signatures_of([text], _SCHEME)
        assert np.array_equal(together.keys[index], alone.keys[0])
        assert np.array_equal(together.prints[index], alone.prints[0])
        assert together.is_empty[index] == alone.is_empty[0]


def test_a_signature_is_the_same_on_every_machine() -> None:
    signatures = signatures_of(["One text, of SEVEN words: caf\u00e9 \u4e2d\u6587!"], _SCHEME)
    digest = hashlib.sha256(signatures.keys.tobytes() + signatures.prints.tobytes()).hexdigest()
    assert digest[:16] == "2284fbc3e4613ba2"


def test_the_table_of_characters_is_the_one_of_this_method() -> None:
    # Should this fail with another Python: the index of every lineage rests on the table.
    assert (
        hashlib.sha256(fold_table().astype("<u4").tobytes()).hexdigest()[:16] == "371b9389c945337a"
    )
    longer = hashlib.sha256(longer_table().astype("<u4").tobytes()).hexdigest()
    assert longer[:16] == "65020503848b6972"
    assert all(fold_table()[letter] == letter for letter in longer_table().flat if letter)


def test_every_letter_counts_as_its_other_cases() -> None:
    every = [f"x{chr(code)}y" for code in range(0xD800)]
    texts = [text for text in every if unicodedata.normalize("NFC", text) == text]
    for change in (str.upper, str.lower, str.title, str.casefold):
        cased = [unicodedata.normalize("NFC", change(text)) for text in texts]
        differing = [
            one for one, other in zip(texts, cased, strict=True) if _units(one) != _units(other)
        ]
        assert differing == []
        minima, others = (minima_of(each, _scheme(1, 1, 1))[0] for each in (texts, cased))
        assert np.array_equal(minima, others)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The quick brown fox", "the  QUICK\n\nbrown, fox!"),
        ("don't stop", "don\u2019t stop"),
        ("\uff21\uff22\uff23 \uff11\uff12", "abc 12"),
        (
            "Die gro\u00dfe Stra\u00dfe, na\u00df und hei\u00df",
            "DIE GROSSE STRA\u1e9eE: NASS UND HEISS",
        ),
        ("\u0130stanbul \u0131\u015f\u0131k", "\u0130STANBUL I\u015eIK"),
        ("\u0130stanbul i\u015fi", "i\u0307stanbul \u0130\u015e\u0130"),
        (
            "e\ufb03cient \ufb01ne \u03b3\u03b1\u0390\u03c1\u03c2",
            "EFFICIENT FINE \u0393\u0391\u03aa\u0301\u03a1\u03a3",
        ),
        ("co\u00adoperate", "cooperate"),
        ("co\u200boper\u2060a\ufeffte", "cooperate"),
        ("\u0e19\u0e49\u0e33\u200b\u0e14\u0e35", "\u0e19\u0e49\u0e33\u0e14\u0e35"),
        ("\u4e2d\u6587\u5b57", "\u4e2d \u6587\u3002\u5b57"),
        (
            "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
            "\u043f\u0420\u0418\u0432\u0435\u0442 - \u041c\u0438\u0440",
        ),
    ],
)
def test_case_spaces_and_punctuation_do_not_count(one: str, other: str) -> None:
    minima, _ = minima_of([one, other], _scheme(2))
    assert np.array_equal(minima[0], minima[1])


@pytest.mark.parametrize(("one", "other"), [("a b c d", "a b d c"), ("v 1 x", "v 2 x")])
def test_order_and_digits_count(one: str, other: str) -> None:
    minima, _ = minima_of([one, other], _scheme(2))
    assert not np.array_equal(minima[0], minima[1])


def test_a_text_without_a_word_has_no_signature() -> None:
    assert signatures_of(["", "...!", "\n\t", "a"], _SCHEME).is_empty.tolist() == [
        True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("num_words", [30, 300])
def test_the_share_of_equal_minima_estimates_the_jaccard_without_bias(
    jaccard: float, num_words: int
) -> None:
    rng = random.Random(f"{jaccard} {num_words}")
    shared = round(num_words * jaccard)
    truth, estimates = shared / num_words, []
    for _ in range(400):
        words = [f"{rng.getrandbits(40):x}" for _ in range(num_words)]
        middle = shared + (num_words - shared) // 2
        pair = [words[:middle], words[:shared] + words[middle:]]
        minima, _ = minima_of([" ".join(text) for text in pair], _scheme(1))
        estimates.append(float(np.mean(minima[0] == minima[1])))
    spread = np.sqrt(truth * (1 - truth) / _SCHEME.permutations)
    assert abs(np.mean(estimates) - truth) < 4 * spread / np.sqrt(len(estimates))
    # Permutations that depended on each other would err more than independent ones.
    assert np.std(estimates) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("jaccard", [0.5, 0.75, 0.9])
def test_the_bytes_that_are_kept_estimate_it_as_well(jaccard: float) -> None:
    rng = random.Random(jaccard)
    shared, estimates = round(200 * jaccard), []
    for _ in range(400):
        words = [f"{rng.getrandbits(40):x}" for _ in range(200)]
        middle = shared + (200 - shared) // 2
        pair = [words[:middle], words[:shared] + words[middle:]]
        prints = signatures_of([" ".join(text) for text in pair], _scheme(1)).prints
        estimates.append((float(np.mean(prints[0] == prints[1])) - 1 / 256) / (1 - 1 / 256))
    spread = np.sqrt(jaccard * (1 - jaccard) / _SCHEME.permutations)
    assert abs(np.mean(estimates) - jaccard) < 4 * spread / np.sqrt(len(estimates))
    assert np.std(estimates) == pytest.approx(spread, rel=0.15)


def test_a_band_is_shared_as_often_as_its_curve_says() -> None:
    rng, config = random.Random(5), NearDuplicateConfig()
    for jaccard in (0.6, 0.75, 0.9):
        shared, found = round(400 * jaccard), 0
        for _ in range(500):
            words = [f"{rng.getrandbits(40):x}" for _ in range(400)]
            middle = shared + (400 - shared) // 2
            pair = [" ".join(words[:middle]), " ".join(words[:shared] + words[middle:])]
            keys = signatures_of(pair, _scheme(1)).keys
            found += bool((keys[0] == keys[1]).any())
        expected = config.found_at(jaccard)
        error = np.sqrt(expected * (1 - expected) / 500)
        assert abs(found / 500 - expected) < 4 * error + 0.002, jaccard


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_an_edit_in_the_middle_costs_n_shingles(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"{rng.getrandbits(40):x}" for _ in range(200)]
    changed = [*words[:100], "other", *words[101:]]
    assert _jaccard(" ".join(words), " ".join(changed), 5) == pytest.approx(191 / 201)
    assert all(one != other for one, other in pairwise(words))


def test_a_threshold_that_the_bands_cannot_keep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold 0.5 asks for more than 14 bands of 8 rows"):
        NearDuplicateConfig(threshold=0.5)


def test_too_many_permutations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bands 64 x rows 32 are 2,048 permutations"):
        NearDuplicateConfig(bands=64, rows=32)
