import gzip
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.s3_client import current_client
from tasks.documents import Document, Reject
from tasks.ingest import list_source, new_objects, next_marks, read_objects
from tasks.reading.bucket_source import _matcher
from tasks.sources import SourceConfig
from tests.support.web import answer


def put(key: str, body: bytes) -> None:
    current_client().put_object(Bucket="bucket", Key=key, Body=body)


def source(uri: str, **changes: Any) -> SourceConfig:
    values: dict[str, Any] = {"name": "web", "uri": uri, "domain": "web", "reject_limit": 1}
    return SourceConfig(**values | changes)


def keys(config: SourceConfig) -> list[str]:
    return [found.uri.removeprefix("s3://bucket/") for found in list_source(config)]


@pytest.fixture
def tree(bucket: str) -> str:
    for key in ["d/a.jsonl", "d/b.txt", "d/sub/c.md", "d/sub/deep/d.py", "d/sub/part-0", "dd.txt"]:
        put(key, b'{"text": "x"}')
    for key in ["d/.git/e.py", "d/sub/.g.txt", "d/image.png"]:
        put(key, b"x")
    return f"s3://{bucket}"


@pytest.mark.parametrize(
    ("pattern", "changes", "expected"),
    [
        ("d", {}, ["d/a.jsonl", "d/b.txt", "d/sub/c.md", "d/sub/deep/d.py"]),
        ("d/", {}, ["d/a.jsonl", "d/b.txt", "d/sub/c.md", "d/sub/deep/d.py"]),
        ("d/**", {}, ["d/a.jsonl", "d/b.txt", "d/sub/c.md", "d/sub/deep/d.py"]),
        ("d", {"format": "code"}, ["d/sub/deep/d.py"]),
        ("d", {"format": "jsonl"}, ["d/a.jsonl"]),
        ("d/*", {}, ["d/a.jsonl", "d/b.txt"]),
        ("d/sub/**/*.py", {}, ["d/sub/deep/d.py"]),
        ("d/sub/part-*", {"format": "jsonl"}, ["d/sub/part-0"]),
        ("d/sub/part-[0-9]", {"format": "jsonl"}, ["d/sub/part-0"]),
        ("d/sub/part-*", {}, []),
        ("d/sub/part-0", {"format": "text"}, ["d/sub/part-0"]),
        ("d/sub/.*.txt", {}, ["d/sub/.g.txt"]),
        ("d/b.txt", {}, ["d/b.txt"]),
        ("absent/*", {}, []),
    ],
)
def test_a_uri_means_an_object_all_below_it_or_a_pattern(
    tree: str, pattern: str, changes: dict[str, Any], expected: list[str]
) -> None:
    assert keys(source(f"{tree}/{pattern}", **changes)) == expected


def test_a_whole_bucket_is_a_source_too(tree: str) -> None:
    assert "dd.txt" in keys(source(tree))
    assert "dd.txt" in keys(source(f"{tree}/"))


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a/[!b]*", "a/cx", True),
        ("a/[!b]*", "a/bx", False),
        ("a/[!b]*", "a/c/x", False),
        ("a/?", "a/b", True),
        ("a?b", "a/b", False),
        ("**/x.gz", "x.gz", True),
        ("**/x.gz", "a/b/x.gz", True),
        ("a/**/x.gz", "a/x.gz", True),
        ("a.c*", "abc", False),
        ("a/[]]", "a/]", True),
        ("a[", "a[", True),
    ],
)
def test_a_pattern_means_what_it_means_in_a_shell(pattern: str, key: str, expected: bool) -> None:
    assert bool(_matcher(pattern).fullmatch(key)) is expected


def read(config: SourceConfig, marks: dict[str, str]) -> tuple[list[Document], list[Reject]]:
    rejects: list[Reject] = []
    new = new_objects(list_source(config), marks)
    documents = list(read_objects(config, new, rejects.append))
    marks.update(next_marks(marks, new, rejects))
    return documents, rejects


def test_all_formats_are_read_from_a_bucket_and_only_what_changed_again(bucket: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["three", "four"]}), sink)
    stream = io.BytesIO()
    table = pa.table({"text": ["five"]})
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    put("data/a.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    put("data/b.parquet", sink.getvalue())
    put("data/c.arrow", stream.getvalue())
    put("data/d.csv", b"text\nsix\n")
    put("data/e/f.txt", b"seven")
    put("data/g.warc.gz", answer("otters"))
    put("data/h.txt", b"")
    config, marks = source(f"s3://{bucket}/data/**"), {}

    documents, rejects = read(config, marks)

    texts = [document.text for document in documents]
    assert texts[:-1] == ["one", "two", "three", "four", "five", "six", "seven"]
    assert documents[-1].address == "https://www.otters.example/page"
    assert [document.id for document in documents[:3]] == [
        "a.jsonl.gz#1",
        "a.jsonl.gz#2",
        "b.parquet#1",
    ]
    assert documents[6].id == "e/f.txt"
    assert [reject.reason for reject in rejects] == ["empty_file"]
    assert read(config, marks) == ([], [])
    put("data/d.csv", b"text\neight\n")
    put("data/i.txt", b"nine")
    assert [document.text for document in read(config, marks)[0]] == ["eight", "nine"]


def test_an_object_that_is_replaced_or_removed_after_the_listing_is_tried_again(
    bucket: str,
) -> None:
    for name in "abc":
        put(f"{name}.txt", b"text")
    config = source(f"s3://{bucket}/*.txt")
    listed = list_source(config)
    current_client().delete_object(Bucket=bucket, Key="a.txt")
    put("b.txt", b"TEXT")
    rejects: list[Reject] = []
    documents = list(read_objects(config, listed, rejects.append))
    assert [document.uri for document in documents] == ["s3://bucket/c.txt"]
    assert [reject.reason for reject in rejects] == ["unreadable", "changed"]
    assert list(next_marks({}, listed, rejects)) == ["s3://bucket/c.txt"]


MIT = b"Permission is hereby granted, free of charge, to any person obtaining a copy"


def test_in_a_tree_the_nearest_licence_file_counts(bucket: str) -> None:
    for key in ["r/a/x.py", "r/a/sub/y.py", "r/b/z.py", "r/b/data.jsonl", "r/w.py"]:
        put(key, b"print()")
    put("LICENSE", MIT)
    put("r/a/LICENSE", MIT)
    put("r/b/COPYING", b"GNU GENERAL PUBLIC LICENSE Version 2, June 1991")
    put("r/a/sub/licence.txt", b"All rights reserved.")
    licences = {
        found.uri.removeprefix(f"s3://{bucket}/r/"): found.licence
        for found in list_source(source(f"s3://{bucket}/r/"))
    }
    assert licences == {
        "a/x.py": "MIT-0",
        # The nearest one counts, though nobody knows its wording.
        "a/sub/y.py": "",
        "a/sub/licence.txt": "",
        "b/z.py": "GPL-2.0-only",
        # Of a file of many documents it says nothing.
        "b/data.jsonl": "",
        # What lies above the source says nothing of it.
        "w.py": "",
    }


def test_licence_files_are_read_only_where_a_file_is_a_document(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("d/a.jsonl", b'{"text": "x"}')
    put("d/LICENSE", MIT)
    monkeypatch.setattr("tasks.reading.bucket_source.open_remote", None)
    assert [found.licence for found in list_source(source(f"s3://{bucket}/d"))] == [""]
