from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.near_duplicate_index import NearDuplicateIndex
from storage.near_duplicate_segment import Segment, merge_segments
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tasks.near_duplicates.signatures import signatures_of
from tests.support.screening import screened

# Few permutations over single words, so that a handful of words makes all kinds of neighbours.
_CONFIG = NearDuplicateConfig(ngram=1, bands=16, rows=2, threshold=0.6)
_WORDS = st.sampled_from("abcdefgh")
_TEXTS = st.lists(st.lists(_WORDS, max_size=6).map(" ".join), max_size=30)
# Hypothesis counts the compilation of the first example, and a folder a function is enough here.
_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _screened(
    texts: Sequence[str],
    segments: Sequence[Segment],
    path: Path,
    snapshot: str = "s",
    at_once: int = 4096,
) -> tuple[list[str], Segment]:
    """The reasons of a refresh, and the segment that it leaves."""
    folder = TemporaryDirectory(dir=path.parent)
    screen = NearDuplicateScreen(_CONFIG, NearDuplicateIndex(segments), Path(folder.name))
    reasons = screened(screen, _CONFIG, texts, at_once)
    screen.write(path, snapshot)
    folder.cleanup()
    return reasons, Segment(path.read_bytes(), str(path))


def _kept_one_by_one(texts: Sequence[str]) -> list[bool]:
    """The rule, told by comparing every document with all kept ones."""
    signatures = signatures_of(texts, _CONFIG.scheme)
    kept: list[int] = []
    is_kept: list[bool] = []
    for index in range(len(texts)):
        is_near = any(
            (signatures.keys[index] == signatures.keys[other]).any()
            and (signatures.prints[index] == signatures.prints[other]).sum() >= _CONFIG.min_equal
            for other in kept
        )
        is_kept.append(not is_near)
        if not is_near and not signatures.is_empty[index]:
            kept.append(index)
    return is_kept


@_SETTINGS
@given(texts=_TEXTS)
def test_a_document_goes_exactly_when_it_is_near_an_earlier_kept_one(
    texts: list[str], tmp_path: Path
) -> None:
    reasons, segment = _screened(texts, [], tmp_path / "segment")
    assert [not reason for reason in reasons] == _kept_one_by_one(texts)
    signed = [bool(text) and not reason for text, reason in zip(texts, reasons, strict=True)]
    assert segment.rows.tolist() == [row for row, is_in in enumerate(signed) if is_in]


@_SETTINGS
@given(texts=_TEXTS, cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)), merge=st.booleans())
def test_three_refreshes_keep_what_one_over_the_same_order_keeps(
    texts: list[str], cuts: tuple[int, int], merge: bool, tmp_path: Path
) -> None:
    whole, _ = _screened(texts, [], tmp_path / "whole")
    first, second = sorted(cuts)
    segments: list[Segment] = []
    reasons: list[str] = []
    for number, part in enumerate((texts[:first], texts[first:second], texts[second:])):
        found, segment = _screened(part, segments, tmp_path / f"{number}", f"s{number}")
        reasons += found
        segments.append(segment)
        if merge and number == 1:
            merge_segments(tmp_path / "merged", segments)
            segments = [Segment((tmp_path / "merged").read_bytes(), "merged")]
    assert [not reason for reason in reasons] == [not reason for reason in whole]


@_SETTINGS
@given(texts=_TEXTS, size=st.integers(1, 7))
def test_what_is_kept_does_not_depend_on_how_many_are_screened_at_once(
    texts: list[str], size: int, tmp_path: Path
) -> None:
    whole, one = _screened(texts, [], tmp_path / "whole")
    parts, other = _screened(texts, [], tmp_path / "parts", at_once=size)
    assert parts == whole
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    assert one.parts == other.parts


@_SETTINGS
@given(texts=_TEXTS, in_memory=st.integers(1, 6), size=st.integers(1, 7))
def test_what_is_kept_does_not_depend_on_how_much_of_it_is_in_memory(
    texts: list[str], in_memory: int, size: int, tmp_path: Path
) -> None:
    whole, _ = _screened(texts, [], tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(dir=tmp_path) as folder:
        patch.setattr("tasks.near_duplicates.kept_on_disk._IN_MEMORY", in_memory)
        parts, _ = _screened(texts, [], Path(folder) / "parts", at_once=size)
        assert parts == whole
        assert (Path(folder) / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_reason_says_where_the_earlier_document_is(tmp_path: Path) -> None:
    _, segment = _screened(["a b c d e f"], [], tmp_path / "1")
    reasons, _ = _screened(["f e d c b a", "g h", "h g", "x"], [segment], tmp_path / "2")
    assert reasons == ["near_duplicate", "", "near_duplicate_in_batch", ""]


def test_a_document_is_known_by_its_row_in_the_table_of_all(tmp_path: Path) -> None:
    screen = NearDuplicateScreen(_CONFIG, NearDuplicateIndex(()), tmp_path)
    found = screen.reasons(
        signatures_of(["a b c", "c b a", "x y"], _CONFIG.scheme), np.array([1, 4, 7])
    )
    assert found == ["", "near_duplicate_in_batch", ""]
    screen.write(tmp_path / "segment", "s")
    assert Segment((tmp_path / "segment").read_bytes(), "segment").rows.tolist() == [1, 7]


def test_documents_without_a_word_are_no_copies_of_each_other(tmp_path: Path) -> None:
    reasons, segment = _screened(["...", "!!!", "???"], [], tmp_path / "1")
    assert reasons == ["", "", ""]
    assert _screened(["---"], [segment], tmp_path / "2")[0] == [""]


def test_a_shared_band_alone_drops_nothing(tmp_path: Path) -> None:
    strict = NearDuplicateConfig(ngram=1, bands=64, rows=1, threshold=0.9)
    texts = [" ".join(f"w{i}" for i in range(start, start + 40)) for start in (0, 10)]
    keys = signatures_of(texts, strict.scheme).keys
    assert np.any(keys[0] == keys[1])
    screen = NearDuplicateScreen(strict, NearDuplicateIndex(()), tmp_path)
    assert screened(screen, strict, texts) == ["", ""]
