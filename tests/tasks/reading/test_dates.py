from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.reading.dates import date_of


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2024", "2024"),
        ("2024-05", "2024-05"),
        ("2024-5-6", "2024-05-06"),
        ("2024/05/06 07:08", "2024-05-06"),
        ("20240506T070809Z", "2024-05-06"),
        ("2024-05-06T23:59:59-08:00", "2024-05-06"),
        ("Mon, 06 May 2024 07:08:09 +0200", "2024-05-06"),
        ("6 May 2024", "2024-05-06"),
        ("1st Sept. 2020", "2020-09-01"),
        ("May 6, 2024", "2024-05-06"),
        ("December 1999", "1999-12"),
        ("1714979289", "2024-05-06"),
        ("1714979289123", "2024-05-06"),
        (" 2024 ", "2024"),
    ],
)
def test_a_date_is_as_precise_as_it_was_written(time: str, expected: str) -> None:
    assert date_of(time) == expected


@pytest.mark.parametrize(
    "time",
    ["", "5/6/2024", "yesterday", "2024-13-01", "2024-02-30", "0000", "Maybe 2024", "1920s", "12"],
)
def test_what_is_no_date_or_ambiguous_is_none(time: str) -> None:
    assert date_of(time) == ""


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)))
def test_every_day_comes_back_in_every_notation(day: date) -> None:
    for pattern in ("%Y-%m-%d", "%Y%m%d", "%d %B %Y", "%b %d, %Y", "%Y-%m-%dT%H:%M:%SZ"):
        assert date_of(day.strftime(pattern)) == day.isoformat()
    assert date_of(f"{day + timedelta(days=31):%Y-%m}") == f"{day + timedelta(days=31):%Y-%m}"


@given(st.text(max_size=40) | st.text(alphabet="0123456789-/TZ:. May,+", max_size=30))
def test_any_text_is_a_date_or_none(time: str) -> None:
    found = date_of(time)
    assert found == "" or len(found) in (4, 7, 10)
