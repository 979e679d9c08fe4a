"""Compilation of the inner loops; only modules of such loops import this one."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])

_KEPT: dict[str, Any] = {"cache": True, "nogil": True}
# numba's own option for functions without its runtime; it is not documented.
_WITHOUT_REFERENCES: dict[str, Any] = {**_KEPT, "_nrt": False}


def compiled(function: _Function) -> _Function:
    """``function`` as machine code, which is made at its first call and kept on disk.

    It is kept next to the source, or below the user's cache where that cannot be written to.
    """
    return cast("_Function", _stamped(numba.njit(**_KEPT)(function), function))


def compiled_inner(function: _Function) -> _Function:
    """As ``compiled``, for what is called once a word or more often and makes no array.

    Without counting references to its arrays, which takes several times as long as the work.
    """
    return cast("_Function", _stamped(numba.njit(**_WITHOUT_REFERENCES)(function), function))


def _stamped(dispatcher: Any, function: Callable[..., object]) -> Any:
    """Have kept machine code used only while no file beside the function's has changed.

    numba looks at the function's own file alone, but what it calls and the constants of other
    modules are part of the machine code too.
    """
    folder = Path(function.__code__.co_filename).parent
    dispatcher._cache._cache_file._source_stamp = _sources_digest(folder)
    return dispatcher


@cache
def _sources_digest(folder: Path) -> str:
    files = sorted(folder.glob("*.py"))
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()
