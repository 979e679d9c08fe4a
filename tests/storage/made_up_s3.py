"""An S3 client that answers as a test says, and a clock of its own."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from storage.objects import ObjectStore
from storage.s3 import open_bucket
from storage.s3_client import current_client
from storage.s3_retry import Retry


class Client:
    """A client of which one call is answered by ``answer(inner call, its arguments)``."""

    def __init__(self, name: str, answer: Callable[[Callable[..., Any], Any], Any]) -> None:
        self._inner = current_client()
        self._name = name
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name != self._name:
            return inner
        return lambda **arguments: self._answer(inner, arguments)


def answer_by(
    monkeypatch: pytest.MonkeyPatch, name: str, way: Callable[[Callable[..., Any], Any], Any]
) -> None:
    client = Client(name, way)
    monkeypatch.setattr("storage.s3_retry.current_client", lambda: client)


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, num_lost: int, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """The first puts arrive, and their answers do not."""

    def lose(put_object: Callable[..., Any], arguments: Any) -> Any:
        nonlocal num_lost
        told = put_object(**arguments)
        if num_lost:
            num_lost -= 1
            meanwhile()
            raise ConnectionClosedError(endpoint_url="http://store")
        return told

    answer_by(monkeypatch, "put_object", lose)


def answer(code: str, status: int, headers: dict[str, str] | None = None) -> ClientError:
    """The error that boto3 makes of an answer."""
    told: Any = {
        "Error": {"Code": code, "Message": "told by the store"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(told, "PutObject")


def quick(store: ObjectStore) -> ObjectStore:
    """The same store, which does not wait before it tries again."""
    return open_bucket(store.uri, Retry(first_wait_seconds=0.0))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
