"""Names of files that a takedown has rewritten: the old name with the takedown's id in it.

``web/train/shard.00003.mds`` becomes ``web/train/shard-1a2b3c4d5e6f.00003.mds``. What was read
under the old name stays whole until the manifest names the new one, and is removed after that.
"""

import re
from collections.abc import Iterable

from storage.errors import CorruptError
from storage.manifest import FileDigest

_REVISION = re.compile(r"-[0-9a-f]{12}$")


def revised_name(name: str, takedown: str) -> str:
    """The name of a file of a snapshot as a takedown rewrote it."""
    folder, slash, base = original_name(name).rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{folder}{slash}{stem}-{takedown}{dot}{rest}"


def original_name(name: str) -> str:
    """The name that a file had when its snapshot was minted."""
    folder, slash, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{folder}{slash}{_REVISION.sub('', stem)}{dot}{rest}"


def find_file(files: Iterable[FileDigest], name: str) -> FileDigest | None:
    """The file that was minted as ``name``, rewritten since or not; None when there is none."""
    return next((file for file in files if original_name(file.name) == name), None)


def file_named(files: Iterable[FileDigest], name: str, owner: str) -> FileDigest:
    """As ``find_file``, for what must be there; ``owner`` names the manifest in the message.

    Raises:
        CorruptError: The manifest does not name it.
    """
    file = find_file(files, name)
    if file is None:
        raise CorruptError(
            f"{owner} names no {name}, without which it cannot be used; restore it from a copy"
        )
    return file
