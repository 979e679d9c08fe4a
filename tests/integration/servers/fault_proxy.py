"""A proxy before an S3 server that does to requests what networks and loaded servers do.

A process of its own: a fork of the tests would keep its broken connections open. Requests pass with
their headers unchanged, so that signatures, which cover the Host, stay valid.
"""

import contextlib
import http.client
import json
import random
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

CONTROL = "/fault-proxy"
_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "409": (409, "ConditionalRequestConflict"),
    "expired": (403, "ExpiredToken"),
    "skewed": (403, "RequestTimeTooSkewed"),
}
"""Faults that answer in the server's place and pass nothing on."""
PASSING = (
    *("500", "503", "409", "reset before", "reset after", "500 after"),
    *("slow", "cut request", "cut answer", "twice"),
)
"""Every fault that a store has to live with."""


@dataclass(frozen=True, slots=True)
class FaultProxy:
    """A running proxy, seen from the tests."""

    endpoint: str

    def script(self, faults: Iterable[str]) -> None:
        """Do these to the next requests, one each, and nothing to those that follow."""
        self._set({"script": list(faults)})

    def scatter(self, faults: Iterable[str], *, rate: float, seed: int) -> None:
        """Do one of these, drawn at random, to a share of all requests."""
        self._set({"faults": list(faults), "rate": rate, "seed": seed})

    def log(self) -> list[tuple[str, str, str]]:
        """Method, path and fault of every request since the last setting; "" is no fault."""
        with urllib.request.urlopen(self.endpoint + CONTROL, timeout=10) as answer:
            return [tuple(row) for row in json.loads(answer.read())]

    def _set(self, setting: dict[str, Any]) -> None:
        body = json.dumps(setting).encode()
        request = urllib.request.Request(self.endpoint + CONTROL, body, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def running_fault_proxy(upstream: str) -> Generator[FaultProxy]:
    """A proxy in front of the ``http://host:port`` of a server; it ends with its standard input."""
    command = [sys.executable, __file__, upstream.removeprefix("http://")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield FaultProxy(f"http://127.0.0.1:{port}")
    finally:
        process.communicate(timeout=10)


class _Schedule:
    """Which fault the next request suffers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: list[str] = []
        self._faults: list[str] = []
        self._rate = 0.0
        self._random = random.Random(0)
        self.log: list[tuple[str, str, str]] = []

    def set(self, setting: dict[str, Any]) -> None:
        with self._lock:
            self._script = setting.get("script", [])
            self._faults = setting.get("faults", [])
            self._rate = setting.get("rate", 0.0)
            self._random = random.Random(setting.get("seed", 0))
            self.log = []

    def next(self, method: str, path: str) -> str:
        with self._lock:
            fault = ""
            if self._script:
                fault = self._script.pop(0)
            elif self._random.random() < self._rate:
                fault = self._random.choice(self._faults)
            self.log.append((method, path, fault))
            return fault


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.schedule = _Schedule()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this server is for."""


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    @property
    def _proxy(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def handle(self) -> None:
        while (request := self._read()) is not None:
            if request.path == CONTROL:
                self._control(request)
                continue
            fault = self._proxy.schedule.next(request.method, request.path)
            if not self._pass_on(request, fault):
                return

    def _control(self, request: _Request) -> None:
        body = b""
        if request.method == "PUT":
            self._proxy.schedule.set(json.loads(request.body))
        else:
            body = json.dumps(self._proxy.schedule.log).encode()
        self._send(_raw(200, [], body))

    def _pass_on(self, request: _Request, fault: str) -> bool:
        """Do as ``fault`` says; whether the connection stays."""
        if fault in _ANSWERS:
            self._send(_error(*_ANSWERS[fault]))
            return True
        if fault == "reset before":
            return self._reset()
        if fault == "cut request":
            self._send_half(request)
            return self._reset()
        if fault == "altered request" and request.body:
            middle = len(request.body) // 2
            flipped = bytes([request.body[middle] ^ 1])
            body = request.body[:middle] + flipped + request.body[middle + 1 :]
            request = _Request(request.method, request.path, request.headers, body)
        if fault == "twice":
            self._ask(request)
        answer = self._ask(request)
        if fault == "500 after":
            answer = _error(*_ANSWERS["500"])
        if fault == "reset after":
            return self._reset()
        if fault == "hang":
            time.sleep(5)
            return self._reset()
        if fault == "cut answer":
            self._send(answer[: len(answer) - max(1, len(answer) // 3)])
            return self._reset()
        if fault == "altered answer":
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        if fault == "slow":
            for start in range(0, len(answer), -(-len(answer) // 4)):
                time.sleep(0.1)
                self._send(answer[start : start + -(-len(answer) // 4)])
            return True
        self._send(answer)
        return True

    def _read(self) -> _Request | None:
        first = self.rfile.readline(65536).decode("latin-1").split()
        if len(first) != 3:
            return None
        headers: list[tuple[str, str]] = []
        while line := self.rfile.readline(65536).decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        found = {name.lower(): value for name, value in headers}
        if found.get("expect", "").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(found.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) != length:
            return None
        kept = [(name, value) for name, value in headers if name.lower() != "expect"]
        return _Request(first[0], first[1], kept, body)

    def _ask(self, request: _Request) -> bytes:
        connection = http.client.HTTPConnection(self._proxy.upstream, timeout=60)
        with contextlib.closing(connection):
            _put_head(connection, request)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            body = answer.read()
            return _raw(answer.status, answer.getheaders(), body)

    def _send_half(self, request: _Request) -> None:
        connection = http.client.HTTPConnection(self._proxy.upstream, timeout=60)
        with contextlib.closing(connection):
            _put_head(connection, request)
            connection.endheaders(request.body[: len(request.body) // 2] or None)

    def _send(self, data: bytes) -> None:
        self.request.sendall(data)

    def _reset(self) -> bool:
        # With no time to linger, close() sends RST and not FIN.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def _put_head(connection: http.client.HTTPConnection, request: _Request) -> None:
    connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers:
        connection.putheader(name, value)


def _raw(status: int, headers: list[tuple[str, str]], body: bytes) -> bytes:
    dropped = {"connection", "transfer-encoding", "keep-alive"}
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    if "content-length" not in {name.lower() for name, _ in kept} and status != 204:
        kept.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in kept)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode("latin-1") + body


def _error(status: int, code: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>made up</Message></Error>'
    return _raw(status, [("Content-Type", "application/xml")], body.encode())


def _main() -> None:
    with _Server(sys.argv[1]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _main()
