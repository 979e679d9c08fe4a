"""Compilation of the inner loops; only modules of such loops import this one."""

import logging
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba  # heavy: only modules of loops import this one
from llvmlite import ir
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., object])

_ADDRESS, _NUMBER = ir.PointerType(ir.IntType(8)), ir.IntType(32)
# The numbers: to be read, into every cache, as data.
_PREFETCH = ir.FunctionType(ir.VoidType(), [_ADDRESS, _NUMBER, _NUMBER, _NUMBER])

# numba's own option for functions without its runtime; it is not documented.
_WITHOUT_REFERENCES = {"_nrt": False}


def compiled(function: _Function) -> _Function:
    """``function`` as machine code, which is made at its first call and kept on disk.

    It is kept next to the source, or below the user's cache where that cannot be written to; where
    neither can, every process makes its own.
    """
    return cast("_Function", _compile(function, {}))


def compiled_inner(function: _Function) -> _Function:
    """As ``compiled``, for what is called once a word or more often and makes no array.

    Without counting references to its arrays, which takes several times as long as the work.
    """
    return cast("_Function", _compile(function, _WITHOUT_REFERENCES))


def inlined(function: _Function) -> _Function:
    """``function`` compiled as a part of those that call it: arrays are dear to hand over."""
    return cast("_Function", numba.njit(forceinline=True)(function))


def _fetch_ahead(_context: Any, array: Any, place: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), _ADDRESS)
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (_ADDRESS,), _PREFETCH)
        builder.call(prefetch, [address, _NUMBER(0), _NUMBER(3), _NUMBER(1)])
        return context.get_dummy_value()

    return numba.types.void(array, place), write


fetch_ahead: Callable[[Any, Any], None] = cast("Any", intrinsic(_fetch_ahead))
"""In compiled loops: have the processor fetch ``array[place]``, and go on without waiting for it.

The place is not checked and nothing is read, so one outside of the array does no harm.
"""


def _compile(function: Callable[..., object], options: dict[str, Any]) -> Any:
    every: dict[str, Any] = {"nogil": True, **options}
    try:
        dispatcher: Any = numba.njit(cache=True, **every)(function)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        _warn_once()
        return numba.njit(**every)(function)
    # numba looks at the function's own file alone, but what it calls and the constants of other
    # modules are part of the machine code too.
    folder = Path(function.__code__.co_filename).parent
    dispatcher._cache._cache_file._source_stamp = _sources_digest(folder)
    return dispatcher


@cache
def _warn_once() -> None:
    logger.warning(
        "neither the installation nor the user's cache can be written to, so machine code is made "
        "anew by every process, in 20 seconds or so; set NUMBA_CACHE_DIR to a folder that can"
    )


@cache
def _sources_digest(folder: Path) -> str:
    files = sorted(folder.glob("*.py"))
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()
