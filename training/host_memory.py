"""The allocator of a process that trains on processors."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""``mallopt(3)``."""
_MOST_INT = 2**31 - 1
_GROWTH_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Let glibc keep what tensors leave for the next ones; whether this is glibc.

    By default it gives every large block back, and the next touch of each page goes through the
    kernel, which clears it: on two AMX cores a sixth of the step of a 5M model.
    For the rest of the process; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST_INT, _TOP_PAD: _GROWTH_BYTES}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
