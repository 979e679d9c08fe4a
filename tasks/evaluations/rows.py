"""Rows of a task's local data files, each with the place that an error names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from tasks.line_stream import Compression, DamagedStreamError, decompress, split_lines

_MAX_LINE_BYTES = 10_000_000
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a file."""

    path: Path
    line: int
    """From 1; in a file that is one JSON list, the element."""
    values: dict[str, Any]

    def refuse(self, field: str, problem: str, remedy: str) -> ValueError:
        """What is wrong with a field of this row, to be raised."""
        return ValueError(f"{self.path}:{self.line}: {field}: {problem}; {remedy}")


def local_path(uri: str) -> Path:
    """The file that a path or a ``file://`` URI names."""
    return Path(unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri)


def read_rows(path: Path) -> list[Row]:
    """All objects of a JSON-lines file (plain, .gz, .zst), or of a file that is one JSON list.

    Raises:
        ValueError: Names file and line of what is not a JSON object, or the file that is not there,
            empty or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a task names a local file of JSON lines")
    rows: list[Row] = []
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(_lines(file, path), 1):
                if raw is None or raw.strip():
                    rows += _parsed(path, line, raw)
    except (EOFError, DamagedStreamError) as error:
        raise ValueError(f"{path}: cannot be decompressed: {error}; copy it again") from error
    if not rows:
        raise ValueError(f"{path}: holds no JSON object; expected one a line")
    return rows


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes | None]:
    chunks = decompress(file, _COMPRESSIONS.get(path.suffix, ""))
    suffix = path.with_suffix("").suffix if path.suffix in _COMPRESSIONS else path.suffix
    if suffix == ".json":
        body = b"".join(chunks)
        if body.lstrip().startswith(b"["):
            yield body
            return
        chunks = iter([body])
    yield from split_lines(chunks, _MAX_LINE_BYTES)


def _parsed(path: Path, line: int, raw: bytes | None) -> list[Row]:
    if raw is None:
        raise ValueError(
            f"{path}:{line}: is longer than {_MAX_LINE_BYTES:,} bytes; an item is a short text"
        )
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise ValueError(
            f"{path}:{line}: is not JSON ({error}); expected one object a line, in UTF-8"
        ) from error
    # An escape of JSON can name half of a character, which no tokenizer and no store takes.
    if _HALF_CHARACTER.search(raw) and not _is_unicode(value):
        raise ValueError(
            f"{path}:{line}: holds half of a surrogate pair, which is no character; write the text "
            "again from its source"
        )
    elements = value if isinstance(value, list) else [value]
    for element in elements:
        if not isinstance(element, dict):
            raise ValueError(  # noqa: TRY004  the file is at fault, not a caller
                f"{path}:{line}: expected a JSON object, found {str(element)[:40]!r}; write "
                '{"field": value, ...}'
            )
    first = 1 if isinstance(value, list) else line
    return [Row(path, first + place, element) for place, element in enumerate(elements)]


def _is_unicode(value: Any) -> bool:
    """Whether all texts within ``value`` can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
