"""The metadata service of a cloud's machine, as far as it hands out the credentials of a role."""

import contextlib
import json
import threading
from collections.abc import Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.integration.servers.gateway import User

_ROLE = "/latest/meta-data/iam/security-credentials/"


@dataclass
class Instance:
    """A running service; whoever asks gets the keys of ``user`` as it is then."""

    user: User
    endpoint: str = ""


@contextlib.contextmanager
def running_instance(user: User) -> Generator[Instance]:
    """Serve on loopback until the body ends."""
    instance = Instance(user)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer("a session of the service")

        def do_GET(self) -> None:
            keys = {
                "Code": "Success",
                "AccessKeyId": instance.user.access_key,
                "SecretAccessKey": instance.user.secret_key,
                "Token": "",
                "Expiration": "2199-01-01T00:00:00Z",
            }
            self._answer("a-role" if self.path == _ROLE else json.dumps(keys))

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        instance.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield instance
        finally:
            server.shutdown()
            thread.join()
