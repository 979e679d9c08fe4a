from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.framing import Framing, framed_length
from tasks.pack import count_targets, first_tokens, pack_domain, row_blocks, token_stream
from tasks.settle import Settled
from tasks.split import DROPPED, HOLDOUT, TRAIN
from tests.support.spooled import document, spooled

_ONE = Framing(start_id=0, end_id=0, token_dtype="uint16", vocab_size=50)
_TWO = Framing(start_id=1, end_id=2, token_dtype="uint16", vocab_size=50)
_framings = st.sampled_from([_ONE, _TWO])
_documents = st.lists(
    st.lists(st.integers(3, 49), min_size=1, max_size=30).map(lambda t: np.array(t, np.uint16)),
    max_size=12,
)


def _rows(pieces: list[np.ndarray], framing: Framing, seq_len: int) -> np.ndarray:
    nothing = np.empty((0, seq_len + 1), framing.token_dtype)
    return np.concatenate([nothing, *row_blocks(pieces, framing, seq_len)])


@given(documents=_documents, framing=_framings, seq_len=st.integers(1, 20))
def test_the_targets_of_all_rows_are_the_stream_from_its_second_token_on(
    documents: list[np.ndarray], framing: Framing, seq_len: int
) -> None:
    stream = token_stream(documents, framing)
    rows = _rows([stream], framing, seq_len)
    targets = rows[:, 1:].reshape(-1)
    wanted = max(len(stream) - 1, 0)
    np.testing.assert_array_equal(targets[:wanted], stream[1:])
    assert (targets[wanted:] == framing.start_id).all()
    assert len(targets) - wanted < seq_len
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
    assert rows.dtype == np.uint16


@given(documents=_documents, framing=_framings)
def test_the_start_token_opens_every_document_and_occurs_nowhere_else(
    documents: list[np.ndarray], framing: Framing
) -> None:
    stream = token_stream(documents, framing)
    starts = np.flatnonzero(stream == framing.start_id)
    assert len(starts) == len(documents)
    pieces = np.split(stream, starts[1:]) if documents else []
    closed = framing.start_id != framing.end_id
    for piece, tokens in zip(pieces, documents, strict=True):
        assert len(piece) == framed_length(len(tokens), framing)
        np.testing.assert_array_equal(piece[1 : len(tokens) + 1], tokens)
        if closed:
            assert piece[-1] == framing.end_id


def test_rows_are_golden() -> None:
    documents = [np.array([10, 11, 12], np.uint16), np.array([20, 21], np.uint16)]
    one = _rows([token_stream(documents, _ONE)], _ONE, 4)
    assert one.tolist() == [[0, 10, 11, 12, 0], [0, 20, 21, 0, 0]]
    two = _rows([token_stream(documents, _TWO)], _TWO, 4)
    assert two.tolist() == [[1, 10, 11, 12, 2], [2, 1, 20, 21, 2]]


def test_no_documents_give_no_rows() -> None:
    assert _rows([token_stream([], _ONE)], _ONE, 8).shape == (0, 9)


def test_one_end_token_a_document_is_counted_as_a_target() -> None:
    documents = [np.array([10, 11, 10], np.uint16), np.array([12], np.uint16)]
    for framing in (_ONE, _TWO):
        counts = count_targets(token_stream(documents, framing), framing)
        expected = np.zeros(50, np.int64)
        expected[[10, 11, 12, framing.end_id]] = 2, 1, 1, 2
        np.testing.assert_array_equal(counts, expected)


@given(documents=_documents, framing=_framings, seq_len=st.integers(1, 20), data=st.data())
def test_rows_do_not_depend_on_the_pieces_that_a_stream_comes_in(
    documents: list[np.ndarray], framing: Framing, seq_len: int, data: st.DataObject
) -> None:
    stream = token_stream(documents, framing)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    pieces = np.split(stream, cuts)
    np.testing.assert_array_equal(
        _rows(pieces, framing, seq_len), _rows([stream], framing, seq_len)
    )


def _settled(splits: np.ndarray) -> Settled:
    return Settled(splits, np.zeros(len(splits), np.int8), {}, [])


@pytest.mark.parametrize("framing", [_ONE, _TWO])
@pytest.mark.parametrize("at_once", [1, 1000])
def test_a_packed_domain_says_where_its_documents_lie(
    framing: Framing, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pack._TOKENS_AT_ONCE", at_once)
    names = ["a", "b", "other", "c", "d", "dropped"]
    documents = spooled(
        tmp_path / "spool",
        [document(name, domain="code" if name == "other" else "web") for name in names],
        [[10, 11], [12, 13, 14], [9, 9, 9, 9, 9], [15], [16, 17], [18]],
        ["", "", "", "", "", "duplicate"],
    )
    splits = np.array([TRAIN, HOLDOUT, TRAIN, DROPPED, TRAIN, DROPPED], np.int8)
    packed = pack_domain(documents, 0, _settled(splits), framing, seq_len=4, directory=tmp_path)
    extra = framed_length(0, framing)
    firsts = first_tokens(documents, splits, framing)
    assert firsts.tolist() == [0, -1, 0, -1, 2 + extra, -1]
    assert packed.slice.train_tokens == 4 + 2 * extra
    assert (packed.slice.train_samples, packed.slice.train_documents) == (2, 2)
    assert (packed.slice.holdout_documents, packed.slice.holdout_tokens) == (1, 5)
    assert (packed.slice.source_names, packed.slice.licences) == (("s",), ("cc0",))
    assert packed.unigram[[9, 12, 16, framing.end_id]].tolist() == [0, 0, 1, 2]
    assert [file.name for file in packed.files] == [
        "web/train/index.json",
        "web/train/shard.00000.mds",
        "web/holdout/index.json",
        "web/holdout/shard.00000.mds",
    ]
    assert all((tmp_path / file.name).stat().st_size == file.size for file in packed.files)


def test_a_domain_that_is_held_out_as_a_whole_has_no_training_files(tmp_path: Path) -> None:
    documents = spooled(tmp_path / "spool", [document("a")], [[10, 11]])
    splits = np.array([HOLDOUT], np.int8)
    packed = pack_domain(documents, 0, _settled(splits), _ONE, seq_len=4, directory=tmp_path)
    assert packed.slice.train_samples == 0
    assert {file.name.split("/")[1] for file in packed.files} == {"holdout"}
