import io
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import AccessError, ConflictError, NotFoundError
from storage.remote_files import list_remote, open_remote
from storage.s3_client import current_client
from tests.storage.made_up_s3 import answer_by


def put(key: str, body: bytes) -> str:
    return current_client().put_object(Bucket="bucket", Key=key, Body=body)["ETag"].strip('"')


def test_objects_are_listed_by_the_letters_they_begin_with(bucket: str) -> None:
    for key in ["a/1", "a/2", "ab", "b", "a/folder/", "a//odd"]:
        put(key, b"xyz")
    listed = list(list_remote(bucket, "a"))
    assert [found.key for found in listed] == ["a/1", "a/2", "ab"]
    assert {found.size for found in listed} == {3}
    assert listed[0].etag == put("a/1", b"xyz")
    assert put("a/1", b"other") != listed[0].etag


def test_a_listing_goes_over_all_pages(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(f"k{number}", b"x")
    answer_by(
        monkeypatch,
        "list_objects_v2",
        lambda inner, arguments: inner(**arguments | {"MaxKeys": 2}),
    )
    assert [found.key for found in list_remote(bucket, "")] == [f"k{n}" for n in range(5)]


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(AccessError, match="list data/"):
        list(list_remote("another-bucket", "data/"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)), max_size=8))
def test_a_remote_file_reads_like_its_bytes(
    bucket: str, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr("storage.remote_files._RANGE_BYTES", 16)
    body = bytes(range(100))
    etag = put("a", body)
    local = io.BytesIO(body)
    with open_remote(bucket, "a", size=len(body), etag=etag) as remote:
        for place, size in steps:
            assert remote.seek(place) == local.seek(place)
            assert remote.read(size) == local.read(size)
            assert remote.tell() == local.tell()
        assert remote.seek(-10, io.SEEK_END) == 90
        assert remote.read() == body[90:]


def test_an_object_that_was_replaced_or_removed_is_never_mixed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.remote_files._RANGE_BYTES", 16)
    etag = put("a", bytes(100))
    with open_remote(bucket, "a", size=100, etag=etag) as remote:
        assert remote.read(16) == bytes(16)
        put("a", bytes(99) + b"x")
        with pytest.raises(ConflictError, match="changed since it was listed"):
            remote.read(16)
        current_client().delete_object(Bucket="bucket", Key="a")
        with pytest.raises(NotFoundError):
            remote.read(16)


def test_a_read_whose_answer_was_cut_is_tried_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = put("a", b"whole")
    calls: list[int] = []

    def cut(inner: Any, arguments: Any) -> Any:
        answer = inner(**arguments)
        calls.append(1)
        if len(calls) == 1:
            answer["ContentLength"] = 99
        return answer

    answer_by(monkeypatch, "get_object", cut)
    with open_remote(bucket, "a", size=5, etag=etag) as remote:
        assert remote.read() == b"whole"
    assert len(calls) == 2
