"""The Ray that a training runs on: a running cluster, or one that nobody else can reach."""

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from training.errors import TrainingError

_HEAD_SECONDS = 10.0
"""For the first connection to a running cluster's head."""
_ON_LOOPBACK = {
    # Ray listens on all interfaces even when its node's address is 127.0.0.1, because it replaces
    # that address by the machine's (ray/_private/services.py, get_node_ip_address). What keeps it
    # on the loopback interface is this switch, made for other systems. Ray reads it when it is
    # imported. A driver that joins such a cluster needs it too, or it looks for the cluster under
    # the machine's address. Tests look at both, and tell when the switch can go.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads from the environment; call before Ray is imported.

    What the user set wins. A cluster of our own gets a token of its own, kept in no file; a running
    one (``address``) brings the user's, by ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN_PATH``.
    """
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address is None:
        # Whoever reaches a Ray port runs code (CVE-2023-48022): only holders of the token may.
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if address is None or address.startswith(("127.", "localhost:")):
        settings |= _ON_LOOPBACK
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def require_head(address: str) -> None:
    """Fail at once where Ray itself would try for minutes, and then end the process.

    Raises:
        TrainingError: Nobody listens at ``address``, or it is one of Ray's client, which is not for
            training: the process that watches the workers would live on the head, and for a while
            outlive its driver.
    """
    if "://" in address:
        raise TrainingError(
            f"the Ray address must be host:port of the head, or auto, found {address}; start a "
            "node on this machine with 'ray start --address=host:port --num-cpus=0' and set "
            "PERENNIAL_RAY_ADDRESS to auto"
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_HEAD_SECONDS).close()
    except OSError as error:
        raise TrainingError(
            f"Ray's head must answer at {address}, and does not: {error.strerror or error}; start "
            "it, or set PERENNIAL_RAY_ADDRESS to another"
        ) from None


def _join(address: str) -> None:
    import ray  # noqa: PLC0415  heavy

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise TrainingError(
            f"this machine must be a node of the Ray cluster {address}, and have its token: "
            f"{error}; compare RAY_AUTH_TOKEN, or the file of RAY_AUTH_TOKEN_PATH, with the head's"
        ) from None


def _folder_of_our_own() -> Path:
    """Where clusters of our own keep sockets and logs; those of dead ones are removed first.

    Ray would leave some megabytes behind for every start. In the system's temporary folder, for a
    socket needs a short path.

    Raises:
        TrainingError: The folder is somebody else's.
    """
    folder = Path(tempfile.gettempdir()) / f"perennial-own-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise TrainingError(
            f"{folder} must be a folder that only this user may enter, and is not; remove it"
        )
    # Ray lets everybody into its own folder.
    folder /= "ray"
    _remove_sessions(folder)
    return folder


def _remove_sessions(folder: Path, of_pid: int | None = None) -> None:
    """Remove what dead drivers have left, and one that is done."""
    for session in folder.glob("session_*_*"):
        # Ray ends the name with the driver's pid.
        pid = int(session.name.rpartition("_")[2])
        if pid == of_pid or not Path(f"/proc/{pid}").exists():
            shutil.rmtree(session, ignore_errors=True)


@contextlib.contextmanager
def connected_ray(address: str | None, num_workers: int) -> Generator[None]:
    """A connection to Ray; what was started here, for at least so many workers, is stopped here.

    Raises:
        TrainingError: There is no cluster at ``address`` that takes this machine's token.
    """
    import ray  # noqa: PLC0415  heavy

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _join(address)
    else:
        ray.init(
            address="local",
            num_cpus=max(num_workers, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(_folder_of_our_own()),
        )
    try:
        # Ray prints what happens to machines ("has been marked dead") on standard output, whatever
        # log_to_driver says (ray/_private/worker.py, listen_error_messages), and what a command
        # prints there must stay readable by machines.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()
        if address is None:
            _remove_sessions(_folder_of_our_own(), os.getpid())
