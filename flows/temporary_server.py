"""Prefect's temporary server, which a command without servers starts for itself."""

import contextlib
import subprocess
from collections.abc import Generator
from functools import partial

from prefect.settings import PREFECT_API_URL


def start_temporary_server() -> None:
    """Start it now, if no other is configured, out of reach of the signals of the terminal.

    Ctrl-C goes to every process of a terminal's group. Prefect's temporary server
    (``SubprocessASGIServer._run_uvicorn_command``) is of that group and dies first, and its client
    then asks it for minutes how to end the run. A test tells when it has a session of its own.
    """
    if not PREFECT_API_URL.value():
        # Seconds of imports, for which who has a server shall not wait.
        from prefect.server.api.server import SubprocessASGIServer  # noqa: PLC0415

        with _new_sessions():
            SubprocessASGIServer().start()


@contextlib.contextmanager
def _new_sessions() -> Generator[None]:
    """Give every process that is started meanwhile a session of its own."""
    popen = subprocess.Popen
    subprocess.Popen = partial(popen, start_new_session=True)
    try:
        yield
    finally:
        subprocess.Popen = popen
