"""Compilation of the inner loops; only modules of such loops import this one."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])
# The last is numba's own option for functions without its runtime; it is not documented.
_INNER: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}


def compiled(function: _Function) -> _Function:
    """``function`` as machine code, which is made at its first call and kept on disk.

    It is kept next to the source, or below the user's cache where that cannot be written to.
    """
    return cast("_Function", numba.njit(cache=True, nogil=True)(function))


def compiled_inner(function: _Function) -> _Function:
    """As ``compiled``, for what is called once a word or more often and makes no array.

    Without counting references to its arrays, which takes several times as long as the work.
    """
    return cast("_Function", numba.njit(**_INNER)(function))
