"""torch's process group across machines: on the address of Ray's node, with a bounded silence.

Imports Ray and torch; only ``training.launch`` imports it, and only when it trains on Ray.
"""

import contextlib
import fcntl
import os
import socket
import struct
import sys

import ray.util
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch.config import (
    TorchConfig,
    _TorchBackend,  # pyright: ignore[reportPrivateUsage]
)

_SIOCGIFADDR = 0x8915
_REQUEST = "256s"
"""Linux's ``struct ifreq``: a name goes in, a socket address from byte 16 on comes out."""


class NodeTorchConfig(TorchConfig):
    """Ray's set-up of the process group, on the right interface, and no tearing down.

    Args:
        backend: ``gloo`` or ``nccl``.
        timeout_s: How long a rank may wait for another before it fails.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray starts the workers' process group with."""
        return _NodeBackend


class _NodeBackend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        worker_group.execute(listen_on_node_address)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        """Leave the group alone: its processes end right after this, with everything they hold.

        Ray would destroy it in every worker and wait 30 s for one that is silent.
        """


def listen_on_node_address() -> None:
    """Make gloo use the interface by which the other nodes know this one; what the user set wins.

    Left alone, gloo takes the address that the host's own name has here, often 127.0.0.1, and tells
    the other machines to connect to that.
    """
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """Name of the interface with this IPv4 address; None when there is none, or no way to tell."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack(_REQUEST, name.encode())
            # An interface without an IPv4 address.
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
