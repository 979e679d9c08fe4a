"""A real S3 server for tests: one-node Ceph with its RADOS gateway, everything in memory."""

import contextlib
import functools
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_suffix(".sh")
_START_SECONDS = 20
_NUM_STARTS = 3


@dataclass(frozen=True, slots=True)
class User:
    """Credentials of the gateway."""

    name: str
    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway; the verbs are those that a test needs of its operator."""

    root: Path
    """Its data, logs and configuration."""
    endpoint: str
    owner: User
    """Owns every bucket that ``new_bucket`` makes."""

    def environment(self, user: User | None = None) -> dict[str, str]:
        """The variables with which boto3 reaches it, as ``user`` (default: the owner)."""
        user = user or self.owner
        return {
            "AWS_ACCESS_KEY_ID": user.access_key,
            "AWS_SECRET_ACCESS_KEY": user.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Nothing outside the machine is asked for credentials, nor a file of the tester's.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, user: User | None = None, service: str = "s3") -> Any:
        """A plain boto3 client, for what our store has no verb for."""
        return _client(self.endpoint, user or self.owner, service)

    def new_bucket(self) -> str:
        """A fresh, empty bucket of the owner."""
        name = f"b-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def new_user(self, name: str) -> User:
        """Another user, who may do nothing in the owner's buckets until a policy allows it."""
        user = User(f"{name}-{secrets.token_hex(4)}", _word(), _word())
        self.admin(
            "user", "create", f"--uid={user.name}", f"--display-name={user.name}",
            f"--access-key={user.access_key}", f"--secret={user.secret_key}",
        )  # fmt: skip
        return user

    def set_quota(self, bucket: str, *, max_objects: int) -> None:
        """Make the bucket full as soon as it holds so many objects."""
        place = ("--quota-scope=bucket", f"--bucket={bucket}")
        self.admin("quota", "set", *place, f"--max-objects={max_objects}", "--max-size=-1")
        self.admin("quota", "enable", *place)

    def admin(self, *arguments: str) -> str:
        """Run radosgw-admin; returns what it prints."""
        command = ["radosgw-admin", "-n", "client.rgw", "-c", str(self.root / "ceph.conf")]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"radosgw-admin {arguments}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def running_gateway() -> Generator[Gateway]:
    """Start a gateway (2 s), and kill all of it at the end."""
    owner = User("owner", _word(), _word())
    with contextlib.ExitStack() as stack:
        root, endpoint = stack.enter_context(_started())
        gateway = Gateway(root, endpoint, owner)
        gateway.admin(
            "user", "create", "--uid=owner", "--display-name=owner",
            f"--access-key={owner.access_key}", f"--secret={owner.secret_key}",
        )  # fmt: skip
        yield gateway


@contextlib.contextmanager
def _started() -> Generator[tuple[Path, str]]:
    told = ""
    for _ in range(_NUM_STARTS):
        # Not pytest's own folder: the path of an admin socket must be short.
        root, port = Path(tempfile.mkdtemp(prefix="rgw-")), _free_port()
        endpoint, errors = f"http://127.0.0.1:{port}", root / "errors"
        with errors.open("w") as target:
            process = subprocess.Popen(
                [_SCRIPT, str(root), str(port), str(_free_port())],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=target,
            )  # fmt: skip
        try:
            if _answers(endpoint, process):
                yield root, endpoint
                return
            # Now and then a fresh OSD meets its monitor too early ("wrong fsid"), or another
            # process took a port.
            told = errors.read_text()
        finally:
            process.communicate(timeout=_START_SECONDS)
            shutil.rmtree(root, ignore_errors=True)
    raise TimeoutError(f"the gateway did not start in {_NUM_STARTS} attempts: {told}")


def policy_statement(actions: list[str], resources: list[str], user: User) -> dict[str, Any]:
    """A statement of a bucket policy that allows ``actions`` to ``user``."""
    return {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user.name}"]},
        "Action": actions,
        "Resource": resources,
    }


def policy_of(*statements: dict[str, Any]) -> str:
    """A bucket policy as JSON."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@functools.cache
def _client(endpoint: str, user: User, service: str) -> Any:
    from boto3.session import Session

    return Session().client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
    )


def _answers(endpoint: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _word() -> str:
    return secrets.token_hex(12)
