import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, os, sys
from training.ray_cluster import connected_ray, prepare_environment
if sys.argv[1] == "without the switch":
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
prepare_environment(None)
import psutil
with connected_ray(None, 1):
    found = set()
    for one in psutil.Process().children(recursive=True):
        for port in one.net_connections("tcp"):
            if port.status == psutil.CONN_LISTEN:
                found.add(port.laddr.ip)
    if sys.argv[1] == "without the switch":
        print(json.dumps({"addresses": sorted(found), "refused": None}))
        sys.exit()
    import ray
    address = ray.get_runtime_context().gcs_address
    stranger = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}
    stranger["RAY_AUTH_TOKEN"] = "0" * 64
    import subprocess
    call = [sys.executable, "-c", f"import ray; ray.init(address={address!r})"]
    refused = subprocess.run(call, env=stranger, capture_output=True).returncode
print(json.dumps({"addresses": sorted(found), "refused": refused}))
"""
LOOPBACK = ("127.", "::1", "::ffff:127.")


def look(case: str) -> dict[str, object]:
    out = subprocess.run(
        [sys.executable, "-c", CODE, case],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
    )
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_and_refuses_strangers() -> None:
    seen = look("as it is")
    addresses = seen["addresses"]
    assert isinstance(addresses, list)
    assert addresses
    assert [a for a in addresses if not str(a).startswith(LOOPBACK)] == []
    assert seen["refused"] != 0


@pytest.mark.ray
def test_the_switch_that_keeps_ray_on_loopback_is_still_needed() -> None:
    addresses = look("without the switch")["addresses"]
    assert isinstance(addresses, list)
    assert [a for a in addresses if not str(a).startswith(LOOPBACK)], (
        "Ray keeps to loopback by itself now: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER can go from "
        "training/ray_cluster.py"
    )
