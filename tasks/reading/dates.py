"""Dates as sources write them, in one spelling."""

import re
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

# fmt: off
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)
# fmt: on
_NAME = r"(?P<name>[A-Za-z]{3,9})\.?"
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        # 2024, 2024-05, 2024-05-06, 2024/5/6, 2024-05-06T07:08:09Z, 2024-05-06 07:08
        r"(?P<year>\d{4})(?:[-/.](?P<month>\d{1,2})(?:[-/.](?P<day>\d{1,2})(?:[T ].*)?)?)?",
        # 20240506, 20240506T070809Z
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?:T?\d{4,6}Z?)?",
        # 6 May 2024, 6. Sep. 2024
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[ -]{_NAME}[ -](?P<year>\d{{4}})(?: .*)?",
        # May 6, 2024
        rf"{_NAME} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}})(?: .*)?",
        # May 2024
        rf"{_NAME} (?P<year>\d{{4}})",
    )
)
_SECONDS = re.compile(r"\d{9,10}(?:\.\d+)?")
_MILLISECONDS = re.compile(r"\d{12,13}")


def date_of(time: str) -> str:
    """``2024-05-06``, ``2024-05`` or ``2024``, as precise as ``time`` is; "" where it is no date.

    Read are ISO 8601, RFC 5322, months by their English name, and seconds or milliseconds since
    1970 (from 1973 on, in UTC). Other times keep their own offset: the day that the source means.
    Not read is what is ambiguous, such as 5/6/2024.
    """
    time = time.strip()
    for read in (_by_pattern, _by_clock, _by_mail):
        try:
            if found := read(time):
                return found
        except (ValueError, OverflowError, OSError):
            # A thirteenth month, or no date in this notation.
            continue
    return ""


def _by_pattern(time: str) -> str:
    for pattern in _PATTERNS:
        match = pattern.fullmatch(time)
        if match is None:
            continue
        found = match.groupdict()
        year, day = int(found["year"]), found.get("day")
        month = found.get("month")
        if name := found.get("name"):
            month = str(_month_of(name))
        # Raises ValueError where the calendar has no such day.
        whole = date(year, int(month or 1), int(day or 1)).isoformat()
        return whole if day else whole[:7] if month else whole[:4]
    return ""


def _month_of(name: str) -> int:
    """1 to 12; ValueError for a name, or the beginning of one, that no month has."""
    return next(
        (n for n, month in enumerate(_MONTHS, start=1) if month.startswith(name.lower())), 0
    )


def _by_clock(time: str) -> str:
    if _SECONDS.fullmatch(time):
        return datetime.fromtimestamp(float(time), UTC).date().isoformat()
    if _MILLISECONDS.fullmatch(time):
        return datetime.fromtimestamp(int(time) / 1000, UTC).date().isoformat()
    return ""


def _by_mail(time: str) -> str:
    return parsedate_to_datetime(time).date().isoformat()
