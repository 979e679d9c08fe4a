from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Document
from tasks.pack import (
    Framing,
    count_targets,
    framed_length,
    pack_domain,
    pack_rows,
    token_stream,
)
from tasks.split import Split
from tasks.tokenize import TokenizedDocument

_ONE = Framing(start_id=0, end_id=0, token_dtype="uint16", vocab_size=50)
_TWO = Framing(start_id=1, end_id=2, token_dtype="uint16", vocab_size=50)
_framings = st.sampled_from([_ONE, _TWO])
_documents = st.lists(
    st.lists(st.integers(3, 49), min_size=1, max_size=30).map(lambda t: np.array(t, np.uint16)),
    max_size=12,
)


@given(documents=_documents, framing=_framings, seq_len=st.integers(1, 20))
def test_the_targets_of_all_rows_are_the_stream_from_its_second_token_on(
    documents: list[np.ndarray], framing: Framing, seq_len: int
) -> None:
    stream = token_stream(documents, framing)
    rows = pack_rows(stream, seq_len, start_id=framing.start_id)
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
    one = pack_rows(token_stream(documents, _ONE), 4, start_id=0)
    assert one.tolist() == [[0, 10, 11, 12, 0], [0, 20, 21, 0, 0]]
    two = pack_rows(token_stream(documents, _TWO), 4, start_id=1)
    assert two.tolist() == [[1, 10, 11, 12, 2], [2, 1, 20, 21, 2]]


def test_no_documents_give_no_rows() -> None:
    assert pack_rows(token_stream([], _ONE), 8, start_id=0).shape == (0, 9)


def test_one_end_token_a_document_is_counted_as_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pack._COUNTED_AT_ONCE", 3)
    documents = [np.array([10, 11, 10], np.uint16), np.array([12], np.uint16)]
    for framing in (_ONE, _TWO):
        counts = count_targets(token_stream(documents, framing), framing)
        expected = np.zeros(50, np.int64)
        expected[[10, 11, 12, framing.end_id]] = 2, 1, 1, 2
        np.testing.assert_array_equal(counts, expected)


def _tokenized(name: str, tokens: list[int], split: Split) -> TokenizedDocument:
    document = Document(
        id=name,
        cluster=f"cluster of {name}",
        text="",
        source="s",
        uri="/data/s",
        position=1,
        domain="web",
        licence="cc0",
        time="",
    )
    return TokenizedDocument(
        document=document,
        content=bytes(16),
        tokens=np.array(tokens, np.uint16),
        text_bytes=3 * len(tokens),
        split=split,
        reason="holdout_cap" if split == "dropped" else "",
    )


@pytest.mark.parametrize("framing", [_ONE, _TWO])
def test_a_packed_domain_says_where_its_documents_lie(framing: Framing, tmp_path: Path) -> None:
    documents = [
        _tokenized("a", [10, 11], "train"),
        _tokenized("b", [12, 13, 14], "holdout"),
        _tokenized("c", [15], "dropped"),
        _tokenized("d", [16, 17], "train"),
    ]
    packed = pack_domain("web", documents, framing, seq_len=4, directory=tmp_path)
    extra = framed_length(0, framing)
    assert packed.first_tokens.tolist() == [0, -1, -1, 2 + extra]
    assert packed.slice.train_tokens == 4 + 2 * extra
    assert (packed.slice.train_samples, packed.slice.train_documents) == (2, 2)
    assert (packed.slice.holdout_documents, packed.slice.holdout_tokens) == (1, 5)
    assert (packed.slice.source_names, packed.slice.licences) == (("s",), ("cc0",))
    assert packed.unigram[[12, 16, framing.end_id]].tolist() == [0, 1, 2]
    names = [file.name for file in packed.files]
    assert names == [
        "web/train/index.json",
        "web/train/shard.00000.mds",
        "web/holdout/index.json",
        "web/holdout/shard.00000.mds",
    ]
    assert all((tmp_path / file.name).stat().st_size == file.size for file in packed.files)


def test_a_domain_that_is_held_out_as_a_whole_has_no_training_files(tmp_path: Path) -> None:
    documents = [_tokenized("a", [10, 11], "holdout")]
    packed = pack_domain("web", documents, _ONE, seq_len=4, directory=tmp_path)
    assert packed.slice.train_samples == 0
    assert {file.name.split("/")[1] for file in packed.files} == {"holdout"}
