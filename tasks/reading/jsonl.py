"""JSON lines: an object a line, each a document.

Blank lines hold nothing and are not counted; every other line gives exactly one item, but for an
object that goes over lines which end with CR.
"""

import json
from collections.abc import Iterator

import orjson

from tasks.documents import Reject
from tasks.line_stream import Compression, Readable
from tasks.readers import BOM, NumberedLine, Place, Record, numbered_lines, record_of

_MOST_DIGITS = 4000
"""Of an integer that is read as one: above some more Python refuses to."""
_NO_JSON = frozenset({"malformed_json", "bad_utf8", "too_deep"})


def read_jsonl(
    file: Readable, place: Place, compression: Compression, *, lines_before: int = 0
) -> Iterator[Record | Reject]:
    """One JSON object a line. Damage to a compressed file is one reject.

    What lies before it is read, and what begins anew behind it (``decompress_parts``). The limit on
    a document's bytes counts the whole line, as it is written. ``lines_before`` are those of the
    file that come before the first that is read.
    """
    lines = numbered_lines(file, place, compression, lines_before=lines_before)
    for position, line in lines:
        if line is None or isinstance(line, Reject):
            yield line or place.oversized(position, "the line has more bytes")
            continue
        item = _parse_line(line, place, position)
        if isinstance(item, Record):
            yield item
        elif item is not None:
            is_cut = item.reason == "malformed_json" and line.endswith(b"\r")
            yield from _over_crs(item, line, lines, place) if is_cut else (item,)


def _over_crs(
    first: Reject, line: bytes, lines: Iterator[tuple[int, NumberedLine]], place: Place
) -> Iterator[Record | Reject]:
    """A line that is no JSON, or the object that it is with what follows up to the next LF.

    A CR is an end of a line, as on old Macs, or white space within an object, and cannot stand in a
    string of one.
    """
    taken: list[tuple[int, NumberedLine]] = []
    pieces: list[bytes] = [line]
    size = len(line)
    # Up to the largest document, so that no byte is looked at more than once more.
    while pieces[-1].endswith(b"\r") and size <= place.max_document_bytes:
        numbered = next(lines, None)
        if numbered is None:
            break
        taken.append(numbered)
        if not isinstance(numbered[1], bytes):
            break
        pieces.append(numbered[1])
        size += len(pieces[-1])
    if taken and len(pieces) > len(taken) and size <= place.max_document_bytes:
        whole = _parse_line(b"".join(pieces), place, first.position)
        if whole is not None and not (isinstance(whole, Reject) and whole.reason in _NO_JSON):
            yield whole
            return
    yield first
    for position, piece in taken:
        if piece is None or isinstance(piece, Reject):
            yield piece or place.oversized(position, "the line has more bytes")
        elif (item := _parse_line(piece, place, position)) is not None:
            yield item


def _parse_line(line: bytes, place: Place, position: int) -> Record | Reject | None:
    """What a line holds, None for a blank one."""
    if not line or line.isspace():
        return None
    # Also in the middle, where files were joined, and more than one where that was done before.
    line = line.lstrip(BOM)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_slowly(line, place, position)
    if isinstance(value, dict) and isinstance(found := record_of(value, place, position), Record):
        return found
    return _parse_slowly(line, place, position)


def _parse_slowly(line: bytes, place: Place, position: int) -> Record | Reject:
    """By the standard library, which reads more (NaN, integers of any size) and says what it saw.

    orjson has the last word on good lines only.
    """
    try:
        value: object = json.loads(line.decode(), parse_int=_integer)
    except UnicodeDecodeError as error:
        return place.reject(position, "bad_utf8", f"byte {error.start}: {error.reason}")
    except ValueError as error:
        return place.reject(position, "malformed_json", str(error))
    except RecursionError:
        return place.reject(position, "too_deep", "objects or lists are nested too deeply")
    if not isinstance(value, dict):
        found = type(value).__name__
        return place.reject(position, "not_an_object", f"expected an object a line, found {found}")
    return record_of(value, place, position)


def _integer(digits: str) -> int | float:
    """An integer, or infinity for one of more digits than Python reads: it is no id of anything."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)
