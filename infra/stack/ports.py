"""Ports on loopback: the remembered or usual one, and another when that is taken."""

import socket
from collections.abc import Collection

from infra.stack.state import LOOPBACK

_NEIGHBOURS = 20


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: what lingers of closed connections does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_port(preferred: int, avoid: Collection[int]) -> int:
    """``preferred`` when it is free, else the next free one, else any; never one of ``avoid``."""
    for port in range(preferred, min(preferred + _NEIGHBOURS, 65536)):
        if port not in avoid and is_free(port):
            return port
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in avoid:
            return port
