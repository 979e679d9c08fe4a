import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.forget.shards import cells
from tasks.framing import Framing, framed_length
from tasks.pack import row_blocks, token_stream
from training.cross_entropy import IGNORE_INDEX
from training.decoder.attention import segments_of
from training.loss import targets_of

_ONE = Framing(start_id=0, end_id=0, token_dtype="uint16", vocab_size=50)
_TWO = Framing(start_id=1, end_id=2, token_dtype="uint16", vocab_size=50)
_texts = st.lists(
    st.lists(st.integers(3, 49), min_size=1, max_size=30).map(lambda t: np.array(t, np.uint16)),
    min_size=1,
    max_size=12,
)


def _rows(texts: list[np.ndarray], framing: Framing, seq_len: int) -> np.ndarray:
    nothing = np.empty((0, seq_len + 1), framing.token_dtype)
    stream = token_stream(texts, framing)
    return np.concatenate([nothing, *row_blocks([stream], framing, seq_len)])


@given(
    texts=_texts,
    framing=st.sampled_from([_ONE, _TWO]),
    seq_len=st.integers(1, 20),
    data=st.data(),
)
def test_of_a_blanked_document_nothing_is_learned_and_of_every_other_what_was_before(
    texts: list[np.ndarray], framing: Framing, seq_len: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    rows = _rows(texts, framing, seq_len)
    ends = np.cumsum([framed_length(len(text), framing) for text in texts])
    starts = np.concatenate([[0], ends[:-1]])
    blanked = rows.copy()
    for number in gone:
        for row, first, last in cells(int(starts[number]), int(ends[number]), seq_len, len(rows)):
            blanked[row, first:last] = framing.start_id
    before, after = (
        targets_of(
            torch.from_numpy(tokens.astype(np.int64)),
            start_id=framing.start_id,
            end_id=framing.end_id,
        )
        .numpy()
        .ravel()
        for tokens in (rows, blanked)
    )
    owner = np.full(len(after) + 1, -1)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        # Of two framings in one token, a document's end is the next one's first token.
        first = start + 1 if framing is _ONE else start
        owner[first : end + 1 if framing is _ONE else end] = number
    is_gone = np.isin(owner[1:], sorted(gone))
    assert (after[is_gone] == IGNORE_INDEX).all()
    assert np.array_equal(after[~is_gone], before[~is_gone])


@given(texts=_texts, seq_len=st.integers(2, 20), data=st.data())
def test_no_document_sees_what_was_blanked(
    texts: list[np.ndarray], seq_len: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(texts) - 1))
    rows = _rows(texts, _TWO, seq_len)
    ends = np.cumsum([framed_length(len(text), _TWO) for text in texts])
    start, end = int(ends[number]) - framed_length(len(texts[number]), _TWO), int(ends[number])
    is_blank = np.zeros(rows.shape, bool)
    for row, first, last in cells(start, end, seq_len, len(rows)):
        rows[row, first:last] = _TWO.start_id
        is_blank[row, first:last] = True
    segments = segments_of(torch.from_numpy(rows.astype(np.int64)), _TWO.start_id).numpy()
    for row in range(len(rows)):
        assert not set(segments[row][is_blank[row]]) & set(segments[row][~is_blank[row]])
