"""What ``ray start`` would start, asked for a head on 127.0.0.1; nothing is started."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

ELSEWHERE = "192.0.2.1"
"""Stands for the machine's own address, which it may not have."""

CODE = f"""
import json, os, sys
from ray._private import services
services.get_node_ip_address = lambda address=None: {ELSEWHERE!r}
from training.cluster import node

def show(parameters, is_head):
    if sys.argv[0] == "ours":
        without_client(parameters, is_head)
    print(json.dumps([parameters.node_ip_address, parameters.ray_client_server_port]), flush=True)
    os._exit(0)

without_client, node.without_client = node.without_client, show
if sys.argv[1] == "ours":
    start = node.main
else:
    from ray.scripts.scripts import main as start
    os.environ["RAY_START_HOOK"] = "training.cluster.node.without_client"
sys.argv = [sys.argv[1], "start", "--head", "--node-ip-address=127.0.0.1"]
start()
"""


def started(by: str) -> tuple[str, int | None]:
    """Address and client port of a head that is started ``by`` Ray or ours."""
    # The test before may have set Ray's own switch.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", CODE, by], env=clean, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    address, port = json.loads(ended.stdout.splitlines()[-1])
    return address, port


def test_a_node_keeps_its_address_and_starts_no_server_for_rays_client() -> None:
    assert started("ours") == ("127.0.0.1", None)


def test_ray_itself_still_needs_both() -> None:
    address, port = started("ray")
    assert address == ELSEWHERE, "resolve_ip_for_localhost can go from training/cluster/node.py"
    assert port is not None, "without_client can go from training/cluster/node.py"
