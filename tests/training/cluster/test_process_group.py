"""Where gloo listens: on the address by which Ray knows the machine."""

import os
import socket
from unittest import mock

import pytest

# Importing ray.train reads and writes deprecated fields of ray.data.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")]


def test_the_interface_of_an_address_is_found() -> None:
    from training.cluster.process_group import interface_of

    assert interface_of("127.0.0.1") in {name for _, name in socket.if_nameindex()}
    # RFC 5737: an address that no machine has.
    assert interface_of("192.0.2.213") is None


def test_gloo_is_told_the_interface_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.cluster.process_group import interface_of, listen_on_node_address

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with mock.patch("ray.util.get_node_ip_address", return_value="127.0.0.1"):
        listen_on_node_address()
        assert os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
        listen_on_node_address()
        assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    with mock.patch("ray.util.get_node_ip_address", return_value="192.0.2.213"):
        listen_on_node_address()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_ray_starts_the_group_and_does_not_wait_for_silent_ranks_at_its_end() -> None:
    from training.cluster.process_group import NodeTorchConfig, listen_on_node_address

    config = NodeTorchConfig(backend="gloo", timeout_s=7)
    backend = config.backend_cls()
    group = mock.MagicMock()
    backend.on_shutdown(group, config)
    assert group.mock_calls == []
    with mock.patch("ray.train.torch.config._TorchBackend.on_start") as start:
        backend.on_start(group, config)
    group.execute.assert_called_once_with(listen_on_node_address)
    start.assert_called_once_with(group, config)
