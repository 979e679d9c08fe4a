"""The Ray that a training runs on: a running cluster, or one that nobody else can reach."""

import contextlib
import logging
import os
import secrets
from collections.abc import Generator

_OWN_CLUSTER = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whoever reaches a Ray port runs code (CVE-2023-48022): only holders of the token may.
    "RAY_AUTH_MODE": "token",
    # Ray listens on all interfaces even when its node's address is 127.0.0.1, because it replaces
    # that address by the machine's (ray/_private/services.py, get_node_ip_address). What keeps it
    # on the loopback interface is this switch, made for other systems. Ray reads it when it is
    # imported. A test looks at the ports, and tells when the switch can go.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads from the environment; call before Ray is imported.

    What the user set wins. A cluster of our own gets a token of its own, kept in no file; a running
    one (``address``) brings the user's.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        for name, value in _OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def connected_ray(address: str | None, num_workers: int) -> Generator[None]:
    """A connection to Ray; what was started here is stopped here."""
    import ray  # noqa: PLC0415  heavy

    if ray.is_initialized():
        yield
        return
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=max(num_workers, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
        )
    try:
        yield
    finally:
        ray.shutdown()
