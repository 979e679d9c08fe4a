import bz2
import gzip
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.documents import Document, Reject, SourceObject, SourceRefusedError
from tasks.ingest import SourceConfig, list_source, new_objects, next_marks, read_objects
from tasks.readers import FieldNames
from tests.support.bad_files import filled_lines
from tests.support.web import answer, html, info


def source(uri: Path | str, **changes: Any) -> SourceConfig:
    values: dict[str, Any] = {"name": "web", "uri": str(uri), "domain": "web-en"}
    return SourceConfig(**values | changes)


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def write(path: Path, body: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def read(
    config: SourceConfig, objects: Sequence[SourceObject] | None = None
) -> tuple[list[Document], list[Reject]]:
    rejects: list[Reject] = []
    listed = list_source(config) if objects is None else objects
    return list(read_objects(config, listed, rejects.append)), rejects


def test_documents_come_in_canonical_order_whatever_the_order_of_the_listing(
    tmp_path: Path,
) -> None:
    write(tmp_path / "b.jsonl", lines("three", "four"))
    write(tmp_path / "a.jsonl.gz", gzip.compress(lines("one", "two")))
    pq.write_table(pa.table({"text": ["six", "seven"]}), tmp_path / "d.parquet")
    write(tmp_path / "c" / "notes.md", b"five")
    config = source(tmp_path)
    listed = list_source(config)

    documents, rejects = read(config, listed[::-1])

    assert [document.text for document in documents] == [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
    ]
    assert rejects == []
    assert read(config, listed) == (documents, rejects)


def test_a_document_knows_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "a.jsonl", lines("one", "two"))
    documents, _ = read(source(tmp_path, licence="CC0-1.0"))
    assert documents[1] == Document(
        id="deep/a.jsonl#2",
        cluster="deep/a.jsonl#2",
        text="two",
        source="web",
        uri=str(path),
        position=2,
        domain="web-en",
        licence="CC0-1.0",
        time="",
    )


def test_a_document_has_all_that_its_source_and_its_fields_say(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "when": "6 May 2024", "lang": "en", "p": 0.9, "url": "https://a.example/1"},
        {"text": "b", "kind": "real"},
        {"text": "c", "from": "model-x"},
        {"text": "d", "kind": "synthetic"},
    ]
    write(tmp_path / "a.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    fields = FieldNames(
        time="when",
        language="lang",
        language_probability="p",
        address="url",
        provenance="kind",
        synthetic_of="from",
    )
    told = {"fields": fields, "provenance": "synthetic", "synthetic_of": "corpus-y"}
    documents, rejects = read(source(tmp_path, **told))
    assert rejects == []
    first = documents[0]
    assert (first.time, first.date, first.address) == ("6 May 2024", "2024-05-06", rows[0]["url"])
    assert (first.language, first.language_probability) == ("en", 0.9)
    assert [(document.provenance, document.synthetic_of) for document in documents] == [
        ("synthetic", "corpus-y"),
        ("real", ""),
        ("synthetic", "model-x"),
        ("synthetic", ""),
    ]


def test_code_has_its_language_and_the_licence_that_is_nearest(tmp_path: Path) -> None:
    mit = (
        b"Permission is hereby granted, free of charge, to any person obtaining a copy ...\n"
        b"... this permission notice shall be included in all copies ..."
    )
    write(tmp_path / "a" / "LICENSE", mit)
    write(tmp_path / "a" / "src" / "x.py", b"x = 1")
    write(tmp_path / "a" / "tagged.rs", b"// SPDX-License-Identifier: BSD-3-Clause\nfn main() {}")
    write(tmp_path / "a" / "vendored" / "COPYING", b"You may look at this but not touch it.")
    write(tmp_path / "a" / "vendored" / "y.c", b"int y;")
    write(tmp_path / "b" / "z.hs", b"z = 1")
    documents, _ = read(source(tmp_path, format="code", licence="mixed"))
    assert [(document.language, document.licence) for document in documents] == [
        ("python", "MIT"),
        ("rust", "BSD-3-Clause"),
        ("c", "mixed"),
        ("haskell", "mixed"),
    ]


def test_moving_a_tree_changes_no_id_and_no_cluster(tmp_path: Path) -> None:
    seen: list[list[tuple[str, str]]] = []
    for place in ["here", "there/below"]:
        write(tmp_path / place / "site" / "a.jsonl", lines("one", "two"))
        write(tmp_path / place / "site" / "b.txt", b"three")
        documents, _ = read(source(tmp_path / place / "**" / "*", cluster_by="file"))
        seen.append([(document.id, document.cluster) for document in documents])
    assert seen[0] == seen[1]
    assert seen[0][0] == ("site/a.jsonl#1", "site/a.jsonl")


@pytest.mark.parametrize(
    ("cluster_by", "expected"),
    [
        ("document", ["repo-a/src/x.py", "repo-a/y.py", "z.py"]),
        ("file", ["repo-a/src/x.py", "repo-a/y.py", "z.py"]),
        ("directory", ["repo-a", "repo-a", "z.py"]),
    ],
)
def test_files_of_one_repository_share_a_cluster(
    tmp_path: Path, cluster_by: str, expected: list[str]
) -> None:
    for name in ["repo-a/src/x.py", "repo-a/y.py", "z.py"]:
        write(tmp_path / name, b"x = 1")
    documents, _ = read(source(tmp_path, format="code", cluster_by=cluster_by))
    assert [document.cluster for document in documents] == expected


def test_a_cluster_field_goes_before_cluster_by(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "x", "site": "example", "licence": "MIT"}')
    fields = FieldNames(cluster="site", licence="licence")
    [document], _ = read(source(tmp_path, fields=fields, cluster_by="file"))
    assert (document.cluster, document.licence) == ("example", "MIT")


def test_a_repeated_id_is_rejected_over_the_files_of_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "x", "id": 1}\n{"text": "y", "id": "1"}\n')
    write(tmp_path / "b.jsonl", b'{"text": "z", "id": "1"}\n{"text": "z", "id": "2"}\n')
    config = source(tmp_path, fields=FieldNames(id="id"), reject_limit=0.5)
    documents, rejects = read(config)
    assert [document.id for document in documents] == ["1", "2"]
    assert [(Path(reject.uri).name, reject.position, reject.reason) for reject in rejects] == [
        ("a.jsonl", 2, "duplicate_id"),
        ("b.jsonl", 1, "duplicate_id"),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=120),
    st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.txt", "a.py"]),
)
def test_any_bytes_in_any_file_are_documents_or_rejects(
    tmp_path: Path, body: bytes, name: str
) -> None:
    path = write(tmp_path / name, body)
    documents, rejects = read(source(path, reject_limit=1))
    places = sorted([item.position for item in [*documents, *rejects]])
    assert len(places) == len(set(places))
    if name == "a.jsonl":
        assert places == (filled_lines(body) or [0])
    else:
        assert len(places) == 1


def test_only_new_and_changed_files_are_read(tmp_path: Path) -> None:
    kept = write(tmp_path / "kept.txt", b"kept")
    changed = write(tmp_path / "changed.txt", b"before")
    config = source(tmp_path)
    first = list_source(config)
    marks = next_marks({}, first)
    assert new_objects(list_source(config), marks) == []

    changed.write_bytes(b"after!")
    os.utime(changed, ns=(0, 1))
    added = write(tmp_path / "added.txt", b"added")
    fresh = new_objects(list_source(config), marks)

    assert [found.uri for found in fresh] == [str(added), str(changed)]
    after = next_marks(marks, fresh)
    assert new_objects(list_source(config), after) == []
    kept.unlink()
    assert str(kept) in next_marks(after, list_source(config))


def test_a_vanished_or_changed_file_is_rejected_and_tried_again(tmp_path: Path) -> None:
    for name in ["a.txt", "b.txt", "c.txt"]:
        write(tmp_path / name, b"text")
    config = source(tmp_path, reject_limit=1)
    listed = list_source(config)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_bytes(b"longer text")

    documents, rejects = read(config, listed)

    assert [Path(document.uri).name for document in documents] == ["c.txt"]
    assert [(Path(reject.uri).name, reject.reason) for reject in rejects] == [
        ("a.txt", "unreadable"),
        ("b.txt", "changed"),
    ]
    assert list(next_marks({}, listed, rejects)) == [str(tmp_path / "c.txt")]


def test_a_source_of_too_many_rejects_is_refused_with_counts_examples_and_remedy(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.jsonl", lines("good") + b"{\n[]\n{\n{\n")
    config = source(tmp_path)
    rejects: list[Reject] = []
    with pytest.raises(SourceRefusedError, match="mend the files or raise reject_limit") as refusal:
        list(read_objects(config, list_source(config), rejects.append))

    message = str(refusal.value)
    assert "source 'web' is refused: 4 of 5 lines" in message
    assert "(malformed_json 3, not_an_object 1), above its reject_limit of 0.05" in message
    assert f"first: {path}:2 malformed_json" in message
    assert f"{path}:4" in message
    assert f"{path}:5" not in message
    assert len(rejects) == 4


def test_a_share_of_rejects_at_the_limit_is_tolerated(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lines(*["good"] * 19) + b"{\n")
    documents, rejects = read(source(tmp_path))
    assert (len(documents), len(rejects)) == (19, 1)


def test_a_hopeless_source_is_refused_long_before_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"{\n" * 5000)
    rejects: list[Reject] = []
    with pytest.raises(SourceRefusedError, match="1000 of 1000 lines"):
        list(read_objects(source(path), list_source(source(path)), rejects.append))
    assert len(rejects) == 1000


def test_an_empty_source_is_no_error_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = source(tmp_path / "absent" / "*.jsonl")
        assert read(config) == ([], [])
    assert "source web: no file matches" in caplog.text


def test_what_is_no_file_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "good.jsonl", lines("one"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "endless.jsonl").symlink_to("/dev/zero")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with caplog.at_level(logging.WARNING):
        listed = list_source(source(tmp_path))
    assert [Path(found.uri).name for found in listed] == ["good.jsonl"]
    told = [name for name in ("endless", "folder", "loop", "pipe") if name in caplog.text]
    assert told == ["endless", "loop", "pipe"]


def test_files_without_any_text_are_listed_and_refuse_no_source(tmp_path: Path) -> None:
    names = ["a.jsonl", "b.jsonl.gz", "c.parquet", "d.txt", "e.csv.bz2", "f.arrow"]
    for name in names:
        write(tmp_path / name, b"")
    write(tmp_path / "g.csv", b"text\n")
    write(tmp_path / "h.jsonl", b"\n\n")
    documents, rejects = read(source(tmp_path, reject_limit=0))
    assert documents == []
    assert [(reject.position, reject.reason) for reject in rejects] == [(0, "empty_file")] * 8


def test_tables_and_packed_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.bz2", bz2.compress(lines("one")))
    write(tmp_path / "b.csv", b"text\ntwo\n")
    write(tmp_path / "c.tsv.gz", gzip.compress(b"text\nthree, four\n"))
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as sink:
        table = pa.table({"text": ["five"]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    documents, rejects = read(source(tmp_path))
    assert [document.text for document in documents] == ["one", "two", "three, four", "five"]
    assert rejects == []


def test_web_pages_and_archives_are_read_by_their_suffix_and_clustered_by_site(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.warc.gz", info() + answer("otters") + answer("otters"))
    write(tmp_path / "b.html", html("violins").encode())
    write(tmp_path / "c.html", b"<html><script>run()</script></html>")
    documents, rejects = read(source(tmp_path, cluster_by="site", reject_limit=0))
    assert [(document.id, document.cluster) for document in documents] == [
        ("a.warc.gz#2", "otters.example"),
        ("a.warc.gz#3", "otters.example"),
        ("b.html", "b.html"),
    ]
    assert documents[0].date == "2024-05-06"
    # A page without a main text is told and does not count.
    assert [(Path(reject.uri).name, reject.reason) for reject in rejects] == [
        ("c.html", "no_main_text")
    ]


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("https://www.a.example/x?y", "a.example"),
        ("http://user:secret@A.example:8080/", "a.example"),
        ("a.example", "a.jsonl#1"),
        ("", "a.jsonl#1"),
    ],
)
def test_a_site_is_the_host_of_an_address(tmp_path: Path, address: str, site: str) -> None:
    write(tmp_path / "a.jsonl", json.dumps({"text": "x", "url": address}).encode())
    [document], _ = read(source(tmp_path, cluster_by="site", fields=FieldNames(address="url")))
    assert document.cluster == site


def test_a_line_of_any_size_is_skipped(tmp_path: Path) -> None:
    body = lines("good") + b'{"text": "' + b"x" * 3_000_000 + b'"}\n' + lines("good")
    path = write(tmp_path / "a.jsonl", body)
    documents, rejects = read(source(path, max_document_bytes=1000, reject_limit=0.5))
    assert [document.position for document in documents] == [1, 3]
    assert [(reject.position, reject.reason) for reject in rejects] == [(2, "oversized")]
