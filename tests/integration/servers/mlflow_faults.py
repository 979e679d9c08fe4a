"""A proxy in front of MLflow's server that treats its calls badly, as a seed says."""

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from urllib.parse import urlsplit


class Fault(StrEnum):
    """What becomes of a call."""

    NONE = "none"
    DROPPED = "dropped"
    """Never reaches the server, the connection ends."""
    REFUSED = "refused"
    """Never reaches the server, the answer is 500."""
    ANSWER_LOST = "answer lost"
    """Is done, the connection ends before the answer."""
    DOUBLED = "doubled"
    """Reaches the server twice."""
    LATE = "late"
    """Is done, and once more after the call that follows it: calls in another order."""
    HANGING = "hanging"
    """Is neither done nor answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FaultyMlflow:
    """The proxy; ``fault`` decides about every call, by its number from 1."""

    target: str
    fault: Callable[[int, Call], Fault]
    done: Counter[Fault] = field(default_factory=Counter[Fault])

    def __post_init__(self) -> None:
        self.closing = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._late: Call | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def uri(self) -> str:
        """In the place of the server's."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Generator["FaultyMlflow"]:
        """Serve until the body ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def answer(self, call: Call) -> tuple[int, bytes] | None:
        """Status and body, or None when the connection is to end without an answer."""
        with self._one_at_a_time:
            fault = self.fault(sum(self.done.values()) + 1, call)
            self.done[fault] += 1
            if fault is Fault.REFUSED:
                return 500, b"refused by the proxy"
            if fault in (Fault.DROPPED, Fault.HANGING):
                return None
            answer = self._forward(call)
            if self._late is not None:
                self._forward(self._late)
            self._late = call if fault is Fault.LATE else None
            if fault is Fault.DOUBLED:
                self._forward(call)
            return None if fault is Fault.ANSWER_LOST else answer

    def _forward(self, call: Call) -> tuple[int, bytes]:
        place = urlsplit(self.target)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        try:
            connection.request(call.method, call.path, call.body, call.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                self.close_connection = True
                if not self.raw_requestline or not self.parse_request():
                    return
                length = int(self.headers.get("Content-Length", "0"))
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                answer = proxy.answer(
                    Call(self.command, self.path, headers, self.rfile.read(length))
                )
                if answer is None:
                    if proxy.is_hanging:
                        proxy.closing.wait()
                    return
                self.send_response(answer[0])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler

    @property
    def is_hanging(self) -> bool:
        """Whether calls are left without an end."""
        return self.done[Fault.HANGING] > 0


def faults_of(seed: int, *, share: float) -> Callable[[int, Call], Fault]:
    """Every call is treated badly with a probability of ``share``, in five ways in turn."""
    rng = random.Random(seed)
    ways = [Fault.DROPPED, Fault.REFUSED, Fault.ANSWER_LOST, Fault.DOUBLED, Fault.LATE]
    rng.shuffle(ways)
    next_way = cycle(ways)
    return lambda _number, _call: next(next_way) if rng.random() < share else Fault.NONE
