"""What this machine says of its processors. Needs no torch."""

from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@cache
def processor_flags() -> frozenset[str]:
    """Words of Linux's description of them, its flags among them; empty elsewhere.

    Read once: it is a page for every processor.
    """
    if not _CPUINFO.is_file():
        return frozenset()
    return frozenset(_CPUINFO.read_text(encoding="utf-8").split())
