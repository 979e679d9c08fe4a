"""Credentials, clocks, buckets and rooms that are not as they should be: one sentence for each."""

import datetime
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import (
    AccessError,
    StorageError,
    StoreFullError,
    UnavailableError,
)
from storage.objects import ObjectStore, open_store
from storage.s3 import open_bucket
from storage.s3_retry import Retry
from storage.s3_transfer import PART_BYTES
from tests.integration.servers.fault_proxy import FaultProxy
from tests.integration.servers.gateway import Gateway, User
from tests.integration.servers.instance import running_instance

pytestmark = pytest.mark.integration

VERBS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "exists": lambda store: store.exists("a"),
    "put": lambda store: store.put("a", b"one"),
    "put_if_absent": lambda store: store.put_if_absent("a", b"one"),
    "list": lambda store: list(store.list("a")),
    "delete": lambda store: store.delete("a"),
}


@pytest.fixture
def store(s3_root: str) -> ObjectStore:
    return open_store(s3_root)


def assert_refused(
    store: ObjectStore, kind: type[StorageError], sentence: str, *secrets: str
) -> None:
    """Every verb ends in this one sentence, which names the store and no secret."""
    for verb in VERBS.values():
        with pytest.raises(kind, match=sentence) as caught:
            verb(store)
        told = str(caught.value)
        assert store.uri in told
        assert "; " in told
        assert "\n" not in told
        assert str(pickle.loads(pickle.dumps(caught.value))) == told
        trace = "".join(traceback.format_exception(caught.value))
        assert not [secret for secret in secrets if secret in trace]


def test_a_wrong_secret_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-key")
    sentence = "the secret key does not fit the access key; correct AWS_SECRET_ACCESS_KEY"
    assert_refused(store, AccessError, sentence, "a-wrong-secret-key")


def test_an_unknown_access_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKNOBODY")
    assert_refused(store, AccessError, "the access key is unknown there; correct AWS_ACCESS_KEY_ID")


def test_missing_credentials(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert_refused(store, AccessError, "there are no complete credentials; set AWS_ACCESS_KEY_ID")


def test_an_expired_token_as_a_proxy_answers_it(
    store: ObjectStore, fault_proxy: FaultProxy
) -> None:
    # A real token lives 900 s at least, longer than a test may last.
    fault_proxy.scatter(["expired"], rate=1.0, seed=0)
    assert_refused(store, AccessError, "the temporary credentials have expired; get new ones")


def test_no_right_to_the_bucket(
    store: ObjectStore, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = gateway.new_user("stranger")
    for name, value in gateway.environment(stranger).items():
        monkeypatch.setenv(name, value)
    sentence = "these credentials may not do this; grant the right"
    assert_refused(store, AccessError, sentence, stranger.secret_key)


@pytest.mark.parametrize(
    ("ahead_seconds", "sentence"),
    [(1200, r"1(19|20)\d s ahead of"), (-86_400, r"86\d\d\d s behind")],
)
def test_a_wrong_clock(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, ahead_seconds: int, sentence: str
) -> None:
    true_time = time.time
    shift = datetime.timedelta(seconds=ahead_seconds)
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_seconds)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime",
        lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + shift,
    )
    assert_refused(store, AccessError, f"the clock of this machine is {sentence} the store's")


def test_a_missing_bucket(s3_root: str) -> None:
    store = open_store("s3://no-such-bucket/prefix")
    assert_refused(store, AccessError, "there is no such bucket; create it, or correct the name")


def test_an_unreachable_endpoint(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    store = open_bucket(s3_root, Retry(budget_seconds=0.3))
    assert_refused(store, UnavailableError, f"at {endpoint}: no success in all attempts")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", "nonsense"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_DEFAULT_REGION", "no where"),
    ],
)
def test_a_configuration_that_names_nothing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(AccessError, match=f"as configured: .*{value}.*; correct AWS_ENDPOINT_URL"):
        store.get("a")


def test_a_full_bucket(gateway: Gateway, s3_root: str, tmp_path: Path) -> None:
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    store = open_store(s3_root)
    store.put("a", b"one")
    gateway.set_quota(bucket, max_objects=1)
    large = tmp_path / "large"
    large.write_bytes(bytes(PART_BYTES + 1))
    writes: list[Callable[[], object]] = [
        lambda: store.put("b", b"two"),
        lambda: store.put_if_absent("b", b"two"),
        lambda: store.put_file("b", large),
    ]
    for write in writes:
        with pytest.raises(StoreFullError, match=r"the bucket is full .QuotaExceeded.; make room"):
            write()
    assert store.get("a") == b"one"
    assert not store.exists("b")
    assert store.abort_uploads("b", older_than=9e12) == 0


@pytest.fixture
def own_bucket(gateway: Gateway, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> tuple[User, str]:
    """Somebody with a bucket, whose keys are not in the environment."""
    user = gateway.new_user("rotated")
    bucket = f"b-of-{user.name}"
    gateway.client(user).create_bucket(Bucket=bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return user, bucket


def exchange_keys(gateway: Gateway, user: User) -> User:
    """The same user, whose old keys are not valid any more."""
    new = replace(user, access_key=f"{user.access_key}2", secret_key="second-secret")
    uid = f"--uid={user.name}"
    gateway.admin("key", "rm", uid, f"--access-key={user.access_key}")
    gateway.admin(
        "key", "create", uid, f"--access-key={new.access_key}", f"--secret={new.secret_key}"
    )
    return new


def test_keys_exchanged_while_we_run_are_read_again(
    gateway: Gateway,
    own_bucket: tuple[User, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    user, bucket = own_bucket
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write_file(user: User) -> None:
        keys = f"aws_access_key_id={user.access_key}\naws_secret_access_key={user.secret_key}\n"
        file.write_text(f"[default]\n{keys}")

    write_file(user)
    store = open_store(f"s3://{bucket}")
    store.put("a", b"one")
    write_file(exchange_keys(gateway, user))
    store.put("a", b"two")
    assert store.get("a") == b"two"


def test_the_role_of_the_machine_is_used_and_asked_again(
    gateway: Gateway, own_bucket: tuple[User, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, bucket = own_bucket
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with running_instance(user) as instance:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.endpoint)
        store = open_store(f"s3://{bucket}")
        store.put("a", b"one")
        instance.user = exchange_keys(gateway, user)
        store.put("a", b"two")
        assert store.get("a") == b"two"
