"""What is tried again and how long, and the sentence about what is not."""

import random
import re
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from storage.errors import AccessError, StoreFullError, UnavailableError
from storage.s3 import open_bucket
from storage.s3_client import current_client, forget_client
from storage.s3_errors import AlteredError, may_pass, sentence_of
from storage.s3_retry import Retry
from tests.storage.made_up_s3 import Clock, answer, answer_by


def raise_slow_down(_: Any) -> None:
    raise answer("SlowDown", 503)


def test_waits_grow_with_full_jitter_and_end_with_the_budget(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    upper: list[float] = []

    def highest(low: float, high: float) -> float:
        assert low == 0
        upper.append(high)
        return high

    monkeypatch.setattr("storage.s3_retry._jitter.uniform", highest)
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


def test_retries_draw_nothing_from_the_generator_that_others_have_seeded(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    before = random.getstate()
    with pytest.raises(ClientError, match="SlowDown"):
        Retry(budget_seconds=1).run(raise_slow_down, "s3://bucket")
    assert random.getstate() == before


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
        (
            ResponseParserError("no XML:\n<html>"),
            UnavailableError,
            "the last time no XML:; look at",
        ),
    ],
)
def test_other_errors_are_told_in_one_sentence(
    error: Exception, kind: type[Exception], sentence: str
) -> None:
    found = sentence_of(error, "read a", "s3://bucket at http://store")
    assert type(found) is kind
    assert re.search(sentence, str(found))
    assert "\n" not in str(found)
    assert str(found).startswith("cannot read a in s3://bucket at http://store: ")


def test_credentials_that_cannot_be_fetched_are_told_in_one_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise CredentialRetrievalError(provider="instance", error_msg="it does not answer")

    forget_client(current_client())
    store = open_bucket(f"s3://{bucket}", Retry(budget_seconds=0.0))
    with monkeypatch.context() as patched:
        patched.setattr("storage.s3_client._new_client", fail)
        with pytest.raises(UnavailableError, match=r"cannot read a in s3://bucket: .* instance"):
            store.get("a")


def test_a_password_in_the_address_of_the_endpoint_is_not_told(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://ann:hush@127.0.0.1:9/bucket/a")

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://ann:hush@127.0.0.1:9")
    answer_by(monkeypatch, "get_object", fail)
    store = open_bucket(f"s3://{bucket}", Retry(budget_seconds=0.0))
    with pytest.raises(UnavailableError, match=r"at http://127\.0\.0\.1:9: .*127") as caught:
        store.get("a")
    assert "hush" not in str(caught.value)
