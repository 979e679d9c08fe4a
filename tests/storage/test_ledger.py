from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.ledger import Exposure, LedgerRow, exposures_of, read_ledger, write_ledger
from storage.local_objects import LocalObjects
from tests.storage.building import LAYOUT

ROWS = st.lists(
    st.builds(
        LedgerRow,
        snapshot=st.sampled_from(["s1", "s2"]),
        domain=st.sampled_from(["web", "code"]),
        document=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        exposures=st.integers(0, 1 << 40),
        tokens=st.integers(0, 1 << 60),
    ),
    max_size=12,
    unique_by=lambda row: (row.snapshot, row.domain, row.document),
)


# No deadline: the disk is shared.
@settings(deadline=None, max_examples=30)
@given(rows=ROWS)
def test_rows_are_read_back_and_their_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[LedgerRow]
) -> None:
    store = LocalObjects(tmp_path_factory.mktemp("store"))
    write_ledger(store, LAYOUT, "u1", rows)
    write_ledger(store, LAYOUT, "u1", rows[::-1])
    assert read_ledger(store, LAYOUT, "u1") == sorted(rows)


def test_an_update_has_one_ledger(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    row = LedgerRow("s1", "web", "d1", 2, 40)
    with pytest.raises(NotFoundError, match="ledger/u1"):
        read_ledger(store, LAYOUT, "u1")
    write_ledger(store, LAYOUT, "u1", [row])
    with pytest.raises(AlreadyExistsError, match="ledger/u1"):
        write_ledger(store, LAYOUT, "u1", [LedgerRow("s1", "web", "d1", 3, 60)])
    with pytest.raises(ValueError, match="two rows about d1 of web@s1"):
        write_ledger(store, LAYOUT, "u2", [row, LedgerRow("s1", "web", "d1", 3, 60)])


def test_a_document_is_found_in_every_update_that_saw_it(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    first, again = LedgerRow("s1", "web", "d1", 2, 40), LedgerRow("s1", "web", "d1", 1, 20)
    write_ledger(store, LAYOUT, "u1", [first, LedgerRow("s1", "web", "d2", 1, 9)])
    write_ledger(store, LAYOUT, "u2", [LedgerRow("s1", "web", "d2", 1, 9)])
    write_ledger(store, LAYOUT, "u3", [again])
    assert exposures_of(store, LAYOUT, ["d1", "d9"]) == {
        "d1": [Exposure("u1", first), Exposure("u3", again)],
        "d9": [],
    }


def test_no_altered_byte_gives_other_rows(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    rows = [LedgerRow("s1", "web", f"d{n}", n, 20 * n) for n in range(50)]
    write_ledger(store, LAYOUT, "u1", rows)
    body = store.get(LAYOUT.ledger("u1"))
    found = 0
    for position in range(4, len(body) // 2, 17):
        altered = bytearray(body)
        altered[position] ^= 0x55
        store.put(LAYOUT.ledger("u1"), bytes(altered))
        try:
            assert read_ledger(store, LAYOUT, "u1") == sorted(rows)
        except CorruptError:
            found += 1
    assert found > 5
