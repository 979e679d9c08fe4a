"""Text as it reads without the escapes of JSON, strings of code and HTML."""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

_IN_STRINGS = re.compile(
    # Of characters above the basic plane JSON has both halves.
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"
    r"|x[0-9a-fA-F]{2}|[\\\"'/bfnrt])"
)
_HIDES_WORDS = re.compile(r"\\[bfnrtux']")
"""The other escapes of strings stand for punctuation, and are punctuation."""
_IN_HTML = re.compile(
    # An ampersand may have been escaped once more, any number of times.
    r"&(?:amp;)*(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});"
)
_NEAR = 400
"""Characters, in which the words of an n-gram stand: 30 for each of 13."""
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def other_readings(text: str) -> list[str]:
    r"""What stands around escapes, with what ``\n``, ``\u00e9``, ``&quot;`` stand for, as NFC.

    Pieces that reach ``_NEAR`` characters to both sides; of a piece that has escapes of strings
    and of HTML one without these, one without those and one without either. Escapes are read
    wherever they seem to stand, also where ``\new`` is the name of a file: look into ``text``
    besides.
    """
    places = sorted([*_places(text, "\\", _HIDES_WORDS), *_places(text, "&", _IN_HTML)])
    return [reading for piece in _around(text, places) for reading in _readings(piece)]


def _places(text: str, opens: str, escapes: re.Pattern[str]) -> Iterator[int]:
    # To find one character is several times as fast as to search for a pattern.
    place = text.find(opens)
    while place >= 0:
        if escapes.match(text, place):
            yield place
        place = text.find(opens, place + 1)


def _around(text: str, places: Sequence[int]) -> Iterator[str]:
    start = end = 0
    for place in places:
        if place - _NEAR > end:
            if end:
                yield text[start:end]
            start = place - _NEAR
        end = place + _NEAR
    if end:
        yield text[start:end]


def _readings(text: str) -> list[str]:
    readings = [text]
    for escapes in (_IN_STRINGS, _IN_HTML):
        read = [escapes.sub(_read, reading) for reading in readings]
        readings += [reading for reading in read if reading not in readings]
    return [unicodedata.normalize("NFC", reading) for reading in readings[1:]]


def _read(escape: re.Match[str]) -> str:
    return _character(escape.group())


@lru_cache(maxsize=1 << 12)
def _character(escape: str) -> str:
    if escape[0] == "&":
        return html.unescape(re.sub("^&(?:amp;)+(?!$)", "&", escape))
    kind = escape[1]
    if kind == "u" and len(escape) > 6:
        return bytes.fromhex(escape[2:6] + escape[8:]).decode("utf-16-be")
    if kind in "ux":
        return chr(int(escape[2:], 16))
    return _CONTROLS.get(kind, kind)
