from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.bounds import Bounds
from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.local_objects import LocalObjects
from storage.manifest import (
    FileDigest,
    canonical_json,
    content_hash,
    digest_bytes,
    digest_file,
    fetch_verified,
    identity_of,
    load,
    publish,
    read_verified,
    readable_json,
    unseal,
    verify,
)
from tests.support.killing_store import KillingObjects


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    number: int
    ratio: float
    kind: Literal["old", "new"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    many: tuple[Inner, ...]
    pair: tuple[int, str]
    counts: dict[str, int]
    flag: bool
    bounded: Annotated[int, Bounds(gt=0)]
    maybe: Inner | None = None
    word: str | None = None
    free: Any = None

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("name must not be forbidden")


INNERS = st.builds(
    Inner,
    number=st.integers(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["old", "new"]),
)
OUTERS = st.builds(
    Outer,
    name=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "forbidden"),
    inner=INNERS,
    many=st.lists(INNERS, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.just("x")),
    counts=st.dictionaries(st.sampled_from("abc"), st.integers()),
    flag=st.booleans(),
    bounded=st.integers(),
    maybe=st.none() | INNERS,
    word=st.none() | st.just("w"),
)

GOOD: dict[str, Any] = {
    "name": "n",
    "inner": {"number": 1, "ratio": 0.5, "kind": "old"},
    "many": [{"number": 1, "ratio": 2, "kind": "new"}],
    "pair": [1, "x"],
    "counts": {"a": 1},
    "flag": True,
    "bounded": 3,
}


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


# No deadline: the disk is shared.
@settings(deadline=None, max_examples=30)
@given(OUTERS)
def test_what_is_published_is_loaded_equal(
    tmp_path_factory: pytest.TempPathFactory, value: Outer
) -> None:
    store = LocalObjects(tmp_path_factory.mktemp("store"))
    publish(store, "key", value)
    assert load(store, "key", Outer) == value


def test_fields_with_defaults_may_be_missing_and_whole_numbers_are_floats(
    store: LocalObjects,
) -> None:
    store.put("key", readable_json(GOOD))
    loaded = load(store, "key", Outer)
    assert loaded.maybe is None
    assert isinstance(loaded.many[0].ratio, float)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"extra": 1}, "key cannot be read: field extra should be absent"),
        ({"name": None}, "field name should be a str, found None"),
        ({"name": "forbidden"}, "name must not be forbidden"),
        ({"flag": 1}, "field flag should be a bool, found 1"),
        ({"bounded": True}, "field bounded should be a int, found True"),
        ({"bounded": 3.0}, "field bounded should be a int, found 3.0"),
        ({"inner": []}, "field inner should be an object with the fields of Inner"),
        ({"inner": {"number": 1, "ratio": 1.0}}, r"field inner\.kind should be present"),
        (
            {"maybe": {"number": 1, "ratio": "x", "kind": "old"}},
            r"field maybe\.ratio should be a f",
        ),
        (
            {"many": [GOOD["inner"], {**GOOD["inner"], "kind": "x"}]},
            r"many\[1\]\.kind should be one",
        ),
        ({"many": {}}, "field many should be a list"),
        ({"pair": [1]}, "field pair should be a list of 2"),
        ({"counts": {"a": "1"}}, r"field counts\['a'\] should be a int"),
        ({"counts": [1]}, "field counts should be an object"),
        ({"word": 5}, "field word should be a str"),
    ],
)
def test_a_field_of_another_form_is_named(
    store: LocalObjects, change: dict[str, Any], complaint: str
) -> None:
    store.put("key", readable_json({**GOOD, **change}))
    with pytest.raises(CorruptError, match=complaint):
        load(store, "key", Outer)


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_field_is_named(store: LocalObjects, name: str) -> None:
    store.put("key", readable_json({k: v for k, v in GOOD.items() if k != name}))
    with pytest.raises(CorruptError, match=f"field {name} should be present"):
        load(store, "key", Outer)


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": 1, "a": 1}', b"[NaN]", b"\xff\xfe\x00"])
def test_what_is_no_json_is_corrupt(store: LocalObjects, body: bytes) -> None:
    store.put("key", body)
    with pytest.raises(CorruptError, match="key is not valid JSON"):
        load(store, "key", Outer)


def test_a_missing_object_is_not_found(store: LocalObjects) -> None:
    with pytest.raises(NotFoundError, match="no object key"):
        load(store, "key", Outer)


def test_publishing_is_once(store: LocalObjects) -> None:
    value = Inner(number=1, ratio=0.5, kind="old")
    publish(store, "key", value)
    publish(store, "key", value)
    with pytest.raises(AlreadyExistsError, match="key already exists"):
        publish(store, "key", Inner(number=2, ratio=0.5, kind="old"))
    assert store.get("key") == (
        b'{\n  "kind": "old",\n  "number": 1,\n  "ratio": 0.5,\n  "sha256": '
        b'"f0be21b0e54abcf71fc8a1a637cca738261d3ead0f8dae0ca3719259500c9aa4"\n}\n'
    )


# No deadline: the disk is shared.
@settings(deadline=None, max_examples=30)
@given(OUTERS, st.data())
def test_no_flipped_byte_is_accepted(value: Outer, data: st.DataObject) -> None:
    body = bytearray(readable_json(value))
    assert unseal(bytes(body), "key", Outer) == value
    for _ in range(20):
        at = data.draw(st.integers(0, len(body) - 1))
        flip = data.draw(st.integers(1, 255))
        body[at] ^= flip
        with pytest.raises(CorruptError, match=r"^key "):
            unseal(bytes(body), "key", Outer)
        body[at] ^= flip


@pytest.mark.parametrize("altered", [b"1e999", b"-1e999", b'"\\ud800"'])
def test_what_no_object_is_written_with_was_altered(altered: bytes) -> None:
    body = readable_json(Inner(number=1, ratio=0.5, kind="old")).replace(b"0.5", altered)
    with pytest.raises(CorruptError, match=r"^key was altered: .*restore it from a copy"):
        unseal(body, "key", Inner)


def test_a_value_without_its_hash_is_refused(store: LocalObjects) -> None:
    store.put("key", canonical_json(GOOD))
    with pytest.raises(CorruptError, match="key was altered: it has no sha256"):
        load(store, "key", Outer)


def test_the_same_value_in_another_layout_is_refused(store: LocalObjects) -> None:
    body = readable_json(GOOD)
    store.put("key", body.replace(b"\n", b" "))
    with pytest.raises(CorruptError, match="key was altered: it promises SHA-256"):
        load(store, "key", Outer)


def test_the_identity_does_not_depend_on_the_order_of_keys() -> None:
    assert identity_of({"a": 1, "b": [1, 2]}) == identity_of({"b": [1, 2], "a": 1})
    assert canonical_json({"b": "é", "a": Inner(number=1, ratio=0.5, kind="old")}) == (
        '{"a":{"kind":"old","number":1,"ratio":0.5},"b":"é"}'.encode()
    )
    assert identity_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_what_json_cannot_say_has_no_identity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        identity_of(float("nan"))
    with pytest.raises(TypeError, match="cannot write a set"):
        identity_of({1})


def test_the_content_hash_does_not_depend_on_the_order_of_files() -> None:
    files = [digest_bytes(b"one", "a"), digest_bytes(b"two", "b")]
    assert content_hash(files) == content_hash(files[::-1])
    assert content_hash(files) != content_hash(files[:1])


def test_digests_of_a_file_and_of_its_bytes_are_equal(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 300_000)
    assert digest_file(tmp_path / "f", "f") == digest_bytes(b"x" * 300_000, "f")


class _Remote(KillingObjects):
    """A store without local files, like S3."""

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  the protocol's
        return None


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_short_or_altered_object_is_named(
    store: LocalObjects, tmp_path: Path, remote: bool
) -> None:
    file = digest_bytes(b"good", "f")
    target = tmp_path / "target"
    seen = _Remote(store) if remote else store

    store.put("p/f", b"good")
    verify(seen, "p", [file])
    assert read_verified(seen, "p", file) == b"good"
    path = fetch_verified(seen, "p", file, target)
    assert path.read_bytes() == b"good"
    assert (path == target) == remote

    for body, complaint in [(b"goo", "p/f has 3 bytes"), (b"evil", "p/f was altered")]:
        target.unlink(missing_ok=True)
        store.put("p/f", body)
        if len(body) != file.size:
            with pytest.raises(CorruptError, match=complaint):
                verify(seen, "p", [file])
        with pytest.raises(CorruptError, match=complaint):
            read_verified(seen, "p", file)
        with pytest.raises(CorruptError, match=complaint):
            fetch_verified(seen, "p", file, target)
        assert not target.exists()

    store.delete("p/f")
    for check in (
        lambda: verify(seen, "p", [file]),
        lambda: read_verified(seen, "p", file),
        lambda: fetch_verified(seen, "p", file, target),
    ):
        with pytest.raises(CorruptError, match="p/f is missing"):
            check()


def test_a_good_copy_is_not_downloaded_again_and_a_bad_one_is(
    store: LocalObjects, tmp_path: Path
) -> None:
    remote = _Remote(store)
    store.put("p/f", b"good")
    file = FileDigest("f", 4, digest_bytes(b"good", "f").sha256)
    fetch_verified(remote, "p", file, tmp_path / "t")
    downloads = remote.operations
    fetch_verified(remote, "p", file, tmp_path / "t")
    assert remote.operations == downloads
    (tmp_path / "t").write_bytes(b"evil")
    assert fetch_verified(remote, "p", file, tmp_path / "t").read_bytes() == b"good"
