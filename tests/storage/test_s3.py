"""What of the S3 store needs no server; tests/integration/test_s3*.py run it on a real one."""

import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    SSLError,
)
from moto import mock_aws

from storage.errors import AccessError, ConflictError, StoreFullError, UnavailableError
from storage.objects import ObjectStore, open_store
from storage.s3 import _NUM_WRITES_KEPT, _WRITES, open_bucket
from storage.s3_bucket import Bucket
from storage.s3_client import current_client, forget_client
from storage.s3_errors import AlteredError, may_pass, sentence_of
from storage.s3_retry import Retry
from storage.s3_transfer import _part_bytes_of


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server that is made up inside this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ACCESS_KEY_ID": "AKTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        current_client().create_bucket(Bucket="bucket")
        yield "bucket"
        forget_client(current_client())


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return open_store(f"s3://{bucket}/prefix")


class LosingAnswers:
    """A client whose first puts arrive, and whose answers do not."""

    def __init__(self, client: Any, num_lost: int, meanwhile: Callable[[], object]) -> None:
        self._client = client
        self._num_lost = num_lost
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        answer = self._client.put_object(**arguments)
        if self._num_lost:
            self._num_lost -= 1
            self._meanwhile()
            raise ConnectionClosedError(endpoint_url="http://store")
        return answer


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, num_lost: int, meanwhile: Callable[[], object] = lambda: None
) -> None:
    client = current_client()
    losing = LosingAnswers(client, num_lost, meanwhile)
    monkeypatch.setattr("storage.s3_retry.current_client", lambda: losing)


def other_counts(times: int) -> Callable[[], None]:
    """Other processes count on, and leave what so many writes of theirs leave."""

    def count() -> None:
        client, place = current_client(), {"Bucket": "bucket", "Key": "prefix/counter"}
        found = client.get_object(**place)
        number = int(found["Body"].read()) + times
        writes = [*(f"other-{n}" for n in range(times)), *found["Metadata"][_WRITES].split()]
        kept = " ".join(writes[:_NUM_WRITES_KEPT])
        client.put_object(**place, Body=str(number).encode(), Metadata={_WRITES: kept})

    return count


def test_a_replacement_whose_answer_was_lost_is_our_own(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("counter", b"0")
    _, etag = store.get_with_etag("counter")
    lose_answers(monkeypatch, num_lost=2)
    tag = store.put_if_match("counter", b"1", etag)
    assert store.get_with_etag("counter") == (b"1", tag)
    assert store.get("counter") == b"1"
    assert store.put_if_match("counter", b"2", tag) != tag


def test_the_metadata_of_a_counter_never_outgrows_what_s3_allows(store: ObjectStore) -> None:
    store.put("counter", b"0")
    _, tag = store.get_with_etag("counter")
    for number in range(1, _NUM_WRITES_KEPT + 10):
        tag = store.put_if_match("counter", str(number).encode(), tag)
    found = current_client().head_object(Bucket="bucket", Key="prefix/counter")["Metadata"]
    assert sum(len(name) + len(value) for name, value in found.items()) <= 2048
    assert len(found[_WRITES].split()) == _NUM_WRITES_KEPT


@pytest.mark.parametrize("num_others", [1, _NUM_WRITES_KEPT - 1])
def test_a_lost_answer_is_our_own_also_when_others_wrote_after_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, num_others: int
) -> None:
    store.put("counter", b"0")
    _, etag = store.get_with_etag("counter")
    lose_answers(monkeypatch, num_lost=1, meanwhile=other_counts(num_others))
    tag = store.put_if_match("counter", b"1", etag)
    assert store.get("counter") == str(1 + num_others).encode()
    with pytest.raises(ConflictError, match="changed since it was read"):
        store.put_if_match("counter", b"2", tag)


def test_a_lost_answer_that_nothing_tells_about_any_more_is_no_conflict(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("counter", b"0")
    _, etag = store.get_with_etag("counter")
    lose_answers(monkeypatch, num_lost=1, meanwhile=other_counts(_NUM_WRITES_KEPT))
    with pytest.raises(UnavailableError, match=r"cannot tell whether counter in .* was written"):
        store.put_if_match("counter", b"1", etag)


def test_a_creation_whose_answer_was_lost_is_our_own(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, num_lost=1)
    store.put_if_absent("a", b"one")
    assert store.get("a") == b"one"


@pytest.mark.parametrize(
    "uri",
    [
        "s3:/bucket/x",
        "s3:bucket",
        "s3://key:hush@bucket/x",
        "s3://key@bucket/x",
        "s3://bucket:9000/x",
        "s3://bucket/x@y",
    ],
)
def test_a_uri_with_more_than_a_place_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="expected s3://bucket/prefix and nothing else") as caught:
        open_store(uri)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "s3://b/x?versionId=1", "s3://bucket/x#y"])
def test_a_uri_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected s3://bucket/prefix"):
        open_store(uri)


def test_a_prefix_is_a_plain_path() -> None:
    with pytest.raises(ValueError, match="not a valid key"):
        open_store("s3://bucket/../x")


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a/b"])
def test_a_store_is_pickled_as_its_uri(uri: str) -> None:
    body = pickle.dumps(open_store(uri + "/"))
    assert pickle.loads(body).uri == uri
    assert len(body) < 200


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


def answer(code: str, status: int, headers: dict[str, str] | None = None) -> ClientError:
    told: Any = {
        "Error": {"Code": code, "Message": "told by the store"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(told, "PutObject")


def test_waits_grow_with_full_jitter_and_end_with_the_budget(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    upper: list[float] = []

    def highest(low: float, high: float) -> float:
        assert low == 0
        upper.append(high)
        return high

    monkeypatch.setattr("random.uniform", highest)
    calls: list[float] = []

    def attempt(_: Any) -> None:
        calls.append(clock.now)
        raise answer("SlowDown", 503)

    with pytest.raises(ClientError, match="SlowDown"):
        Retry(budget_seconds=60).run(attempt, "s3://bucket")
    assert upper[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert set(upper[7:]) == {5.0}
    assert 55 < clock.now <= 60
    assert len(calls) == len(clock.waits) + 1 < 25


def test_a_slow_attempt_costs_nothing_of_the_budget(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    results = iter([answer("SlowDown", 503), None])

    def attempt(_: Any) -> str:
        clock.now += 1000.0
        error = next(results)
        if error is not None:
            raise error
        return "done"

    assert Retry(budget_seconds=60).run(attempt, "s3://bucket") == "done"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer("InternalError", 500), True),
        (answer("502", 502), True),
        (answer("SlowDown", 503), True),
        (answer("504", 504), True),
        (answer("TooManyRequests", 429), True),
        (answer("ConditionalRequestConflict", 409), True),
        (answer("RequestTimeout", 400), True),
        (answer("BadDigest", 400), True),
        (ConnectionClosedError(endpoint_url="x"), True),
        (EndpointConnectionError(endpoint_url="x"), True),
        (AlteredError("other bytes"), True),
        (SSLError(endpoint_url="x", error="EOF occurred"), True),
        (SSLError(endpoint_url="x", error="CERTIFICATE_VERIFY_FAILED"), False),
        (answer("AccessDenied", 403), False),
        (answer("NoSuchKey", 404), False),
        (answer("NoSuchBucket", 404), False),
        (answer("PreconditionFailed", 412), False),
        (answer("QuotaExceeded", 403), False),
        (answer("InvalidArgument", 400), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, expected: bool) -> None:
    assert may_pass(error) is expected


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (answer("InvalidToken", 400), AccessError, "the session token is not valid; get new ones"),
        (answer("InsufficientStorage", 507), StoreFullError, "full .* make room .* run the same"),
        (answer("XMinioStorageFull", 507), StoreFullError, "the bucket is full"),
        (answer("Teapot", 418), AccessError, "it answered 418 Teapot; look it up"),
        (answer("RequestTimeTooSkewed", 403), AccessError, "the clocks .* differ .* set the clock"),
        (answer("SlowDown", 503), UnavailableError, "the last time it answered 503 SlowDown; look"),
    ],
)
def test_other_errors_are_told_in_one_sentence(
    error: Exception, kind: type[Exception], sentence: str
) -> None:
    found = sentence_of(error, "read a", "s3://bucket at http://store")
    assert type(found) is kind
    assert re.search(sentence, str(found))
    assert str(found).startswith("cannot read a in s3://bucket at http://store: ")


def test_the_client_is_one_a_process_until_the_environment_changes(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = current_client()
    assert current_client() is first
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    second = current_client()
    assert second is not first
    forget_client(first)
    assert current_client() is second


def test_a_file_that_changes_while_it_is_uploaded_is_refused(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3_transfer.PART_BYTES", 5 << 20)
    path = tmp_path / "growing"
    path.write_bytes(bytes(11 << 20))
    run = Bucket.run

    def grow(self: Bucket, what: str, attempt: Callable[[Any], Any]) -> Any:
        if what.startswith("upload part 2"):
            with path.open("ab") as file:
                file.write(b"more")
        return run(self, what, attempt)

    monkeypatch.setattr(Bucket, "run", grow)
    with pytest.raises(ValueError, match="growing changed while it was uploaded"):
        store.put_file("a", path)
    assert not store.exists("a")
    assert store.abort_uploads("a", older_than=9e12) == 0


@pytest.mark.parametrize("size", [17 << 20, 100 << 30, 5 << 40])
def test_parts_are_few_enough_for_s3(size: int) -> None:
    part_bytes = _part_bytes_of(size)
    assert -(-size // part_bytes) <= 10_000
    assert 5 << 20 <= part_bytes <= 5 << 30


def test_opening_a_bucket_loads_no_boto3() -> None:
    code = (
        "import sys; from storage.objects import open_store; open_store('s3://bucket/prefix');"
        "print({'boto3', 'botocore', 'urllib3'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_retry_of_its_own_survives_pickling() -> None:
    store = open_bucket("s3://bucket/prefix", Retry(budget_seconds=1.0))
    assert pickle.loads(pickle.dumps(store))._bucket == store._bucket
