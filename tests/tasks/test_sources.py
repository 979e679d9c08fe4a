import logging
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.ingest import list_source
from tasks.sources import SourceConfig, compression_of


def source(uri: Path | str, **changes: Any) -> SourceConfig:
    values: dict[str, Any] = {"name": "web", "uri": str(uri), "domain": "web-en"}
    return SourceConfig(**values | changes)


def names(root: Path, config: SourceConfig) -> list[str]:
    return [Path(found.uri).relative_to(root).as_posix() for found in list_source(config)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ["a.jsonl", "b.txt", "sub/c.md", "sub/deep/d.py", "sub/part-0", "image.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for name in [".git/e.py", "sub/.f.txt.swp", "sub/.g.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "changes", "expected"),
    [
        ("", {}, ["a.jsonl", "b.txt", "sub/c.md", "sub/deep/d.py"]),
        ("", {"format": "code"}, ["sub/deep/d.py"]),
        ("", {"format": "text"}, ["b.txt", "sub/c.md"]),
        ("", {"format": "text", "suffixes": (".md",)}, ["sub/c.md"]),
        ("", {"format": "jsonl"}, ["a.jsonl"]),
        ("*", {}, ["a.jsonl", "b.txt"]),
        ("**", {}, ["a.jsonl", "b.txt", "sub/c.md", "sub/deep/d.py"]),
        ("sub/**/*.py", {}, ["sub/deep/d.py"]),
        ("sub/part-*", {"format": "jsonl"}, ["sub/part-0"]),
        ("sub/part-*", {}, []),
        ("sub/part-0", {"format": "text"}, ["sub/part-0"]),
        ("sub/.*.txt", {}, ["sub/.g.txt"]),
        ("b.txt", {}, ["b.txt"]),
        ("absent/*", {}, []),
    ],
)
def test_a_uri_means_a_file_a_directory_or_a_pattern(
    tree: Path, pattern: str, changes: dict[str, Any], expected: list[str]
) -> None:
    assert names(tree, source(tree / pattern, **changes)) == expected


def test_a_file_uri_may_be_escaped_and_may_be_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "with space.txt").write_bytes(b"x")
    assert names(tmp_path, source(f"file://{tmp_path}/with%20*.txt")) == ["with space.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ["[1].txt", "1.txt"]:
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path, source(tmp_path / "[1].txt")) == ["[1].txt"]


def test_links_in_a_circle_and_special_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "broken.txt").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe.txt")
    assert names(tmp_path, source(tmp_path)) == ["a.txt"]


def test_a_name_that_is_not_utf8_is_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:  # noqa: PTH123  not a str
        file.write(b"x")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path, source(tmp_path)) == []
    assert "left out 1 files whose name is not UTF-8" in caplog.text


def test_files_that_no_format_claims_are_reported(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        list_source(source(tree))
    assert "left out 2 files" in caplog.text


def test_an_entity_tag_changes_with_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 5))
    [found] = list_source(source(path))
    assert (found.size, found.etag) == (1, "1-5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uri": "gs://bucket/data/*"}, "scheme 'gs', which cannot be read yet; name a path, a"),
        ({"uri": "s3://"}, "is no s3://bucket/key"),
        ({"uri": "s3://user:secret@bucket/a"}, "credentials come from the environment"),
        ({"uri": "s3://bucket/a**/x"}, "must be a whole path component"),
        ({"uri": "file://data/x"}, "names the host 'data'; write file:/// with three slashes"),
        ({"uri": ""}, "is empty or has a NUL"),
        ({"uri": "/data/a**/x"}, r"must be a whole path component, as in 'data/\*\*/\*.txt'"),
        ({"name": "Web"}, "source 'Web' is not a valid name"),
        ({"domain": "a/b"}, "domain 'a/b' is not a valid name"),
        ({"synthetic_of": "model-x"}, "set provenance: synthetic"),
        ({"suffixes": ("txt",)}, "does not start with a dot; write '.txt'"),
    ],
)
def test_an_impossible_source_is_refused_with_the_remedy(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        source(**{"uri": "/data", **changes})


def test_a_source_is_validated_from_plain_values() -> None:
    adapter = TypeAdapter(SourceConfig)
    values = {"name": "web", "uri": "/data", "domain": "web", "fields": {"text": "body"}}
    assert adapter.validate_python(values).fields.text == "body"
    with pytest.raises(ValidationError, match="Unexpected keyword argument"):
        adapter.validate_python(values | {"licence_": "x"})
    with pytest.raises(ValidationError, match="at least 0 and at most 1"):
        adapter.validate_python(values | {"reject_limit": 5})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jsonl", ""), ("a.jsonl.GZ", "gz"), ("a.json.zst", "zst"), ("a.csv.bz2", "bz2")],
)
def test_compression_is_told_by_the_last_suffix(name: str, expected: str) -> None:
    assert compression_of(name) == expected


@pytest.mark.parametrize(
    ("size", "changes", "limit"),
    [
        (10, {}, 1 << 28),
        (10**9, {}, 200 * 10**9),
        (10**9, {"max_expansion": 1.5}, 1_500_000_000),
        (10**11, {}, 10**12),
        (10, {"max_unpacked_bytes": 5000}, 5000),
    ],
)
def test_how_much_a_packed_file_may_hold_goes_by_its_size_and_has_an_end(
    size: int, changes: dict[str, Any], limit: int
) -> None:
    source = SourceConfig(name="web", uri="/data", domain="web", **changes)
    assert source.unpacked_limit(size) == limit
