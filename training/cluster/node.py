"""``ray start`` on loopback only: ``python -m training.cluster.node start ...``.

Ray replaces the address 127.0.0.1 of a node by the machine's own, and then listens on all
interfaces (``ray/_private/services.py``, ``resolve_ip_for_localhost``). Its switch against that,
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, forbids a second node. Here the address that was asked for stays.

A head also starts the server of Ray's client, one more port that runs code, and has no switch
against it (``ray/scripts/scripts.py``: a port that is not told is 10001). A training joins as a
node and never uses it; here it is not started. A test tells when Ray needs neither.
"""

import os

from ray._private import services
from ray._private.parameter import RayParams


def without_client(parameters: RayParams, _is_head: bool) -> None:
    """Called by ``ray start`` before it starts anything."""
    parameters.ray_client_server_port = None


def _as_given(host: str) -> str:
    return host


def main() -> None:
    """Run Ray's command line."""
    services.resolve_ip_for_localhost = _as_given
    os.environ["RAY_START_HOOK"] = "training.cluster.node.without_client"
    # After the replacement.
    from ray.scripts.scripts import main as ray_main  # noqa: PLC0415

    ray_main()


if __name__ == "__main__":
    main()
