"""Has a program killed by the kernel as soon as the process that started it is gone.

Run as a file, ``python -I die_with_parent.py PARENT PROGRAM ARGUMENT...``, it becomes that program.
By a program of its own and not a ``preexec_fn``, which may deadlock where there are threads. Linux
only.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
"""Of ``prctl(2)``; kept when a process becomes another program."""


def tied_to_this_process(command: Sequence[str]) -> list[str]:
    """The command that runs ``command`` and does not outlive this process.

    Nor the thread that starts it: that is what the kernel looks at.

    Args:
        command: Begins with the path of a program.
    """
    return [sys.executable, "-I", __file__, str(os.getpid()), *command]


def main() -> None:
    """Tie this process to ``PARENT``, a pid, and become ``PROGRAM``.

    Raises:
        OSError: The kernel refuses, or there is no such program.
        ProcessLookupError: ``PARENT`` has died already.
    """
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    # One that has died before that has left us another parent, and its death is told to nobody.
    if os.getppid() != int(parent):
        raise ProcessLookupError(f"process {parent} has started this one, and is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
