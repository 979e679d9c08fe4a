"""Loops that numba compiles; their machine code is kept between processes where it can be."""

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, compiled at its first call for the types that it is given.

    The machine code is kept beside the module or, where that folder cannot be written, in the
    user's cache; where neither can be, every process compiles it again. What is kept is found by
    the module's own file, so a compiled loop must not call one of another module.
    """
    import numba  # noqa: PLC0415  takes a second, and most processes never compile anything

    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        # "no locator available": an installation that is read-only, in a home that is too.
        return numba.njit(function)
