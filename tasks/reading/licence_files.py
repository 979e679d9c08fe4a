"""The licence of a tree's files: by the nearest LICENSE or COPYING, told by its wording."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath

from tasks.reading.code import LANGUAGES, spdx_tag

_NAME = re.compile(r"(?:un)?licen[cs]e(?:[-_.].+)?|copying(?:[-_.].+)?", re.IGNORECASE)
READ_BYTES = 1 << 16
"""Of a licence file so much is looked at."""
_NO_WORDS = re.compile(r"[^a-z0-9]+")

# Words in lower case, without punctuation.
_ONE_WORDING = {
    # The GNU texts name one another, so each is told by the version and date below its title.
    "AGPL-3.0-only": "gnu affero general public license version 3 19 november 2007",
    "LGPL-3.0-only": "gnu lesser general public license version 3 29 june 2007",
    "LGPL-2.1-only": "gnu lesser general public license version 2 1 february 1999",
    "GPL-3.0-only": "gnu general public license version 3 29 june 2007",
    "GPL-2.0-only": "gnu general public license version 2 june 1991",
    "Apache-2.0": "apache license version 2 0",
    "MPL-2.0": "mozilla public license version 2 0",
    "EPL-2.0": "eclipse public license v 2 0",
    "EUPL-1.2": "european union public licence v 1 2",
    "BSL-1.0": "boost software license version 1 0",
    "BlueOak-1.0.0": "blue oak model license version 1 0 0",
    "Artistic-2.0": "the artistic license 2 0",
    "PSF-2.0": "python software foundation license version 2",
    "CC0-1.0": "cc0 1 0 universal",
    "CC-BY-4.0": "attribution 4 0 international",
    "CC-BY-SA-4.0": "attribution sharealike 4 0 international",
    "CC-BY-NC-4.0": "attribution noncommercial 4 0 international",
    "CC-BY-NC-SA-4.0": "attribution noncommercial sharealike 4 0 international",
    "Unlicense": "free and unencumbered software released into the public domain",
    "Zlib": "altered source versions must be plainly marked as such",
}
_GRANT_MIT = "permission is hereby granted free of charge to any person obtaining a copy"
_NOTICE_MIT = "permission notice shall be included in all"
_GRANT_ISC = "distribute this software for any purpose with or without fee is hereby granted"
_NOTICE_ISC = "permission notice appear in all copies"
_BSD = "redistribution and use in source and binary forms"
_NO_NAMES = "neither the name"
_ADVERTISING = "all advertising materials"
_FAMILIES = (
    # All of the first are there, and none of the second.
    ("MIT", (_GRANT_MIT, _NOTICE_MIT), ()),
    ("MIT-0", (_GRANT_MIT,), (_NOTICE_MIT,)),
    ("ISC", (_GRANT_ISC, _NOTICE_ISC), ()),
    ("0BSD", (_GRANT_ISC,), (_NOTICE_ISC,)),
    ("BSD-3-Clause", (_BSD, _NO_NAMES), (_ADVERTISING,)),
    ("BSD-2-Clause", (_BSD,), (_NO_NAMES, _ADVERTISING)),
)


class LicenceFiles:
    """The licences of the directories of a tree; looks into each directory once.

    Args:
        root: Of the tree.
        licence_in: The licence of a directory by its own files, None where it has none; of a tree
            on disk by reading them.
    """

    def __init__(
        self, root: PurePath, licence_in: Callable[[PurePath], str | None] | None = None
    ) -> None:
        self._root = root
        self._licence_in = licence_in or _licence_in
        self._known: dict[PurePath, str] = {}

    def nearest(self, directory: PurePath) -> str:
        """Licence of the files in ``directory``; "" where none is found or known by its wording.

        Looked for upwards to the root of the source and no further. The nearest one counts, also
        where its wording is not known: what lies above it says nothing of its files.
        """
        if directory in self._known:
            return self._known[directory]
        found = self._licence_in(directory)
        if found is None:
            is_top = directory == self._root or directory.parent == directory
            found = "" if is_top else self.nearest(directory.parent)
        self._known[directory] = found
        return found


def licence_of(text: str) -> str:
    """SPDX identifier of a licence by its wording, several joined by AND; "" for an unknown one.

    A text of the GNU licences cannot say whether later versions hold too, so it gives ``-only``.
    """
    if tag := spdx_tag(text):
        return tag
    words = _NO_WORDS.sub(" ", text.lower())
    found = {name for name, wording in _ONE_WORDING.items() if wording in words}
    for name, present, absent in _FAMILIES:
        if all(map(words.__contains__, present)) and not any(map(words.__contains__, absent)):
            found.add(name)
    return " AND ".join(sorted(found))


def is_licence(name: str) -> bool:
    """Whether a file of this name tells the licence of what lies beside it."""
    return bool(_NAME.fullmatch(name)) and Path(name).suffix.lower() not in LANGUAGES


def joined(licences: Iterable[str]) -> str:
    """The licence of a directory by those of its files, which all hold."""
    found = set(licences)
    # The lesser licence is written as additions to the other one, which lies beside it.
    if "LGPL-3.0-only" in found:
        found.discard("GPL-3.0-only")
    return " AND ".join(sorted(found - {""}))


def _licence_in(directory: PurePath) -> str | None:
    """Of the licence files of one directory; None where it has none, or cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if is_licence(entry.name) and entry.is_file()]
    except OSError:
        return None
    return joined(_licence_of_file(Path(directory) / name) for name in names) if names else None


def _licence_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return licence_of(file.read(READ_BYTES).decode(errors="replace"))
    except OSError:
        return ""
