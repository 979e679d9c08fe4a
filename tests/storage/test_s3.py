"""What of the S3 store needs no server; tests/integration/test_s3*.py run it on a real one."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import AccessError, ConflictError, CorruptError, UnavailableError
from storage.objects import ObjectStore, open_store
from storage.s3 import _NUM_WRITES_KEPT, _WRITES, open_bucket
from storage.s3_client import current_client, forget_client
from storage.s3_retry import Retry
from tests.storage.made_up_s3 import answer_by, lose_answers, quick


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return open_store(f"s3://{bucket}/prefix")


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


def send_the_whole(get_object: Callable[..., Any], arguments: Any) -> Any:
    arguments.pop("Range", None)
    return get_object(**arguments)


def test_a_range_is_cut_from_the_whole_that_a_server_sends_instead(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put("a", b"0123456789")
    store.put("empty", b"")
    answer_by(monkeypatch, "get_object", send_the_whole)
    assert store.get("a", start=3, length=4) == b"3456"
    assert store.get("a", start=8, length=100) == b"89"
    assert store.get("a", start=10, length=1) == b""
    assert store.get("a", length=0) == b""
    assert store.exists("empty")
    for key in ("a", "empty"):
        store.get_file(key, tmp_path / key)
        assert (tmp_path / key).read_bytes() == store.get(key)


@pytest.mark.parametrize(
    ("wrong", "told"), [("bytes=4-7", {}), ("bytes=3-5", {}), ("", {"ContentRange": "bytes 3-6/*"})]
)
def test_another_range_than_the_one_asked_for_is_found(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, wrong: str, told: dict[str, str]
) -> None:
    store.put("a", b"0123456789")
    num_calls = 0

    def send_another(get_object: Callable[..., Any], arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return {**get_object(**{**arguments, "Range": wrong or arguments["Range"]}), **told}

    answer_by(monkeypatch, "get_object", send_another)
    with pytest.raises(CorruptError, match=r"a came with ('bytes .*', asked for were 3 to 7|MD5)"):
        quick(store).get("a", start=3, length=4)
    assert num_calls == 5


@pytest.mark.parametrize("verb", ["get", "exists", "get_with_etag", "put_if_match"])
def test_what_tells_no_entity_tag_is_no_s3(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store.put("a", b"one")
    _, etag = store.get_with_etag("a")

    def without_tag(call: Callable[..., Any], arguments: Any) -> Any:
        return {**call(**arguments), "ETag": ""}

    name = "put_object" if verb == "put_if_match" else "get_object"
    answer_by(monkeypatch, name, without_tag)
    arguments = ("a", b"two", etag) if verb == "put_if_match" else ("a",)
    with pytest.raises(AccessError, match=r"answered for a told no entity tag, .*correct AWS"):
        getattr(store, verb)(*arguments)


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
