import json
import os
import socket
import subprocess
import sys
from unittest import mock

import pytest

from training.cluster.connection import prepare_environment, require_head
from training.errors import TrainingError

CODE = """
import json, os, sys
from training.cluster.connection import connected_ray, prepare_environment
if sys.argv[1] == "without the switch":
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
prepare_environment(None)
import psutil
with connected_ray(None, 1):
    from ray._private.worker import print_to_stdstream
    news = {"lines": ["a machine is dead"], "pid": "raylet", "is_err": False}
    print_to_stdstream(news, ignore_prefix=False)
    found = set()
    for one in psutil.Process().children(recursive=True):
        for port in one.net_connections("tcp"):
            if port.status == psutil.CONN_LISTEN:
                found.add(port.laddr.ip)
    if sys.argv[1] == "without the switch":
        sys.__stdout__.write(json.dumps({"addresses": sorted(found), "refused": None}))
        sys.exit()
    import ray
    address = ray.get_runtime_context().gcs_address
    stranger = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}
    stranger["RAY_AUTH_TOKEN"] = "0" * 64
    import subprocess
    call = [sys.executable, "-c", f"import ray; ray.init(address={address!r})"]
    refused = subprocess.run(call, env=stranger, capture_output=True).returncode
    # A driver that was told nothing but the address and the token.
    friend = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ENABLE")}
    join = (
        "from training.cluster.connection import connected_ray, prepare_environment; "
        f"prepare_environment({address!r}); "
        f"connected_ray({address!r}, 1).__enter__()"
    )
    joined = subprocess.run([sys.executable, "-c", join], env=friend).returncode
print(json.dumps({"addresses": sorted(found), "refused": refused, "joined": joined}))
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
    assert "a machine is dead" in out.stderr
    return json.loads(out.stdout)


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_refuses_strangers_and_lets_friends_in() -> None:
    seen = look("as it is")
    addresses = seen["addresses"]
    assert isinstance(addresses, list)
    assert addresses
    assert [a for a in addresses if not str(a).startswith(LOOPBACK)] == []
    assert seen["refused"] != 0
    assert seen["joined"] == 0


def test_a_running_cluster_keeps_the_users_token_and_its_own_address() -> None:
    theirs = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray"}
    with mock.patch.dict(os.environ, theirs, clear=True):
        prepare_environment("10.0.0.7:6379")
        assert os.environ == {**theirs, "RAY_USAGE_STATS_ENABLED": "0"}
        prepare_environment("127.0.0.1:6379")
        assert os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"
        assert os.environ == {**theirs, "RAY_USAGE_STATS_ENABLED": "0"}


def test_a_head_that_does_not_answer_and_an_address_of_rays_client_are_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        require_head(address)
    with pytest.raises(TrainingError, match=f"must answer at {address}, and does not: .*refused"):
        require_head(address)
    with pytest.raises(TrainingError, match="found ray://head:10001; start a node"):
        require_head("ray://head:10001")
    require_head("auto")


@pytest.mark.ray
def test_the_switch_that_keeps_ray_on_loopback_is_still_needed() -> None:
    addresses = look("without the switch")["addresses"]
    assert isinstance(addresses, list)
    assert [a for a in addresses if not str(a).startswith(LOOPBACK)], (
        "Ray keeps to loopback by itself now: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER can go from "
        "training/cluster/connection.py"
    )
