"""The boto3 client of this process: one, shared by all its threads, never by a fork.

Credentials, region and endpoint come from boto3's default chain and from nowhere else: environment,
shared files, container, instance. Nothing here reads, keeps or logs a secret.
"""

import os
import threading
from typing import Any

from infra.credentials import hide_credentials
from storage.errors import AccessError
from storage.s3_errors import may_pass

_CONNECT_TIMEOUT_SECONDS = 5.0
# Between two packets, not for a whole body: a slow store is no dead one.
_READ_TIMEOUT_SECONDS = 30.0
_MAX_CONNECTIONS = 64

_lock = threading.Lock()
_current: tuple[int, Any] | None = None


def current_client() -> Any:
    """The client; made anew after a fork and when an ``AWS_*`` variable has changed."""
    global _current
    with _lock:
        environment = _environment()
        if _current is None or _current[0] != environment:
            _current = environment, _new_client()
        return _current[1]


def forget_client(client: Any) -> None:
    """Make the next call read the chain again: credentials may have been exchanged meanwhile."""
    global _current
    with _lock:
        if _current is not None and _current[1] is client:
            _current = None


def _new_client() -> Any:
    # Here, as importing it takes a second and most processes work on a directory.
    from boto3.session import Session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=_READ_TIMEOUT_SECONDS,
        max_pool_connections=_MAX_CONNECTIONS,
        tcp_keepalive=True,
        # storage/s3_retry.py retries whole verbs; two layers would multiply their attempts.
        retries={"mode": "standard", "total_max_attempts": 1},
        # We send Content-MD5, which every store checks. Over TLS the default would send the body as
        # chunks with a CRC in the trailer, which stores other than Amazon's may not understand.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: boto3's default session keeps the credentials it found first.
    try:
        return Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        if may_pass(error):
            raise
        raise AccessError(
            f"cannot talk to S3 as configured: {hide_credentials(str(error))}; correct "
            "AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION or the profile"
        ) from error


def _environment() -> int:
    variables = [item for item in os.environ.items() if item[0].startswith("AWS_")]
    return hash(tuple(sorted(variables)))


def _after_fork() -> None:
    # The child must use neither the parent's connections nor a lock that a thread of it held.
    global _current, _lock
    _current = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
