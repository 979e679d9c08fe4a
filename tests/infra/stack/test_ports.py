import socket

from infra.stack.ports import choose_port, is_free


def test_a_taken_port_is_moved_aside_and_a_free_one_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert not is_free(taken)
        assert choose_port(taken, ()) != taken
    assert choose_port(taken, ()) == taken


def test_a_port_that_is_taken_on_all_interfaces_is_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_ports_of_other_parts_are_avoided() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert choose_port(free, {free}) != free
