"""Prefect's temporary server, which a command without servers starts for itself."""

import contextlib
import subprocess
from collections.abc import Generator, Sequence
from typing import Any

from prefect.settings import PREFECT_API_URL

from flows.die_with_parent import tied_to_this_process


def start_temporary_server() -> None:
    """Start it now, if no other is configured, to live exactly as long as this process.

    In the main thread: the server dies with the thread that has started it.

    Prefect (``SubprocessASGIServer``) starts a plain child, which is wrong in two ways. Ctrl-C goes
    to every process of a terminal's group: the server dies first, and its client then asks it for
    minutes how to end the run. And nothing but ``atexit`` stops it, which no signal calls: a
    command that is killed leaves it behind for ever, at work. A test tells when Prefect starts it
    in another way.
    """
    if not PREFECT_API_URL.value():
        # Seconds of imports, for which who has a server shall not wait.
        from prefect.server.api.server import SubprocessASGIServer  # noqa: PLC0415

        with _tied():
            SubprocessASGIServer().start()


@contextlib.contextmanager
def _tied() -> Generator[None]:
    """Give what is started meanwhile a session of its own, and an end when this process ends."""
    popen = subprocess.Popen

    def start(args: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return popen(tied_to_this_process(args), start_new_session=True, **options)

    subprocess.Popen = start
    try:
        yield
    finally:
        subprocess.Popen = popen
