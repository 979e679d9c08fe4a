import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.expose import tokens_seen


@given(
    st.lists(st.integers(min_value=0, max_value=5), min_size=1, max_size=20),
    st.integers(min_value=1, max_value=9),
    st.data(),
)
def test_tokens_seen_are_counted_position_by_position(
    draws: list[int], seq_len: int, data: st.DataObject
) -> None:
    positions = len(draws) * seq_len
    start = data.draw(st.integers(min_value=0, max_value=positions))
    # The last document may end beyond the last row's inputs: its last token is only a target.
    length = data.draw(st.integers(min_value=0, max_value=positions - start + 1))
    expected = sum(
        draws[p // seq_len] for p in range(start, start + length) if p // seq_len < len(draws)
    )
    found = tokens_seen(np.array(draws), seq_len, np.array([start]), np.array([length]))
    assert found.tolist() == [expected]
