"""Files of code, one document each: the language by the name, the licence by the file's own tag."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from tasks.documents import Reject
from tasks.line_stream import Readable
from tasks.readers import Place, Record, read_text

# fmt: off
LANGUAGES = {
    ".c": "c", ".cc": "c++", ".clj": "clojure", ".cpp": "c++", ".cs": "c#", ".cu": "cuda",
    ".dart": "dart", ".erl": "erlang", ".ex": "elixir", ".f90": "fortran", ".go": "go",
    ".h": "c", ".hpp": "c++", ".hs": "haskell", ".java": "java", ".jl": "julia",
    ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lean": "lean", ".lua": "lua",
    ".ml": "ocaml", ".php": "php", ".pl": "perl", ".py": "python", ".pyi": "python", ".r": "r",
    ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".sh": "shell", ".sql": "sql",
    ".swift": "swift", ".tex": "tex", ".ts": "typescript", ".tsx": "typescript", ".zig": "zig",
}
# fmt: on
"""Name of the language by suffix, in lower case."""

_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9][\w.+() -]*)")
_HEAD_CHARS = 2000
"""Where a file's tag is looked for: further down it may be quoted."""


def read_code(file: Readable, place: Place) -> Iterator[Record | Reject]:
    """The file as one document, as ``read_text`` does."""
    for item in read_text(file, place):
        if isinstance(item, Record):
            item = replace(item, language=language_of(place.uri), licence=spdx_tag(item.text))
        yield item


def language_of(name: str) -> str:
    """The language of a file of this name, "" for one that is not known."""
    return LANGUAGES.get(PurePath(name).suffix.lower(), "")


def spdx_tag(text: str) -> str:
    """The licence that the head of a file names by ``SPDX-License-Identifier:``, or ""."""
    match = _TAG.search(text[:_HEAD_CHARS])
    return match[1].strip() if match else ""
