"""``ray start`` for nodes that listen on loopback only: ``python -m training.ray_node start ...``.

Ray replaces the address 127.0.0.1 of a node by the machine's own, and then listens on all
interfaces (``ray/_private/services.py``, ``resolve_ip_for_localhost``). Its switch against that,
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, forbids a second node. Here the address that was asked for stays.
A test looks at the ports, and tells when ``ray start`` does by itself.
"""

from ray._private import services


def _as_given(host: str) -> str:
    return host


def main() -> None:
    """Run Ray's command line."""
    services.resolve_ip_for_localhost = _as_given
    # After the replacement.
    from ray.scripts.scripts import main as ray_main  # noqa: PLC0415

    ray_main()


if __name__ == "__main__":
    main()
