"""Of bad input no good document is lost, and nothing bad is silent or fatal below the limit."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.curate import CurateConfig, normalise
from tasks.documents import Document, Reject, SourceRefusedError
from tasks.ingest import list_source, next_marks, read_objects
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, TrainedTokenizer
from tasks.sources import SourceConfig
from tests.support.bad_files import MAX_DOCUMENT_BYTES, PAGES, BadFile, bad_files, jsonl

FILES = bad_files()
NOT_COUNTED = {"empty_file", "no_main_text"}


def source(path: Path, limit: float = 1) -> SourceConfig:
    return SourceConfig(
        name="bad",
        uri=str(path),
        domain="bad",
        fields=FieldNames(id="id"),
        max_document_bytes=MAX_DOCUMENT_BYTES,
        reject_limit=limit,
    )


def read(config: SourceConfig) -> tuple[list[Document], list[Reject]]:
    rejects: list[Reject] = []
    return list(read_objects(config, list_source(config), rejects.append)), rejects


def first_words(documents: list[Document]) -> tuple[str, ...]:
    """What tells a document from its neighbours; of a page its topic."""
    words = (document.text.split() for document in documents)
    return tuple(each[1] if each[0] == "About" else each[0] for each in words)


def test_there_are_forty_bad_files_and_more_of_every_format() -> None:
    assert len(FILES) >= 40
    assert len({file.name for file in FILES}) == len(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_good_document_is_lost_and_nothing_bad_is_silent(tmp_path: Path, file: BadFile) -> None:
    path = tmp_path / file.name
    path.write_bytes(file.body)

    documents, rejects = read(source(path))

    found = first_words(documents)
    assert (found[: len(file.good)] if file.at_least else found) == file.good
    assert tuple(sorted(reject.reason for reject in rejects)) == file.reasons
    for reject in rejects:
        assert reject.uri == str(path)
        assert reject.position >= 0
        assert reject.detail
    places = [item.position for item in [*documents, *rejects]]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_above_the_limit_the_source_is_refused_with_a_summary(
    tmp_path: Path, file: BadFile
) -> None:
    path = tmp_path / file.name
    path.write_bytes(file.body)
    documents, rejects = read(source(path))
    counted = [reject for reject in rejects if reject.reason not in NOT_COUNTED]
    if not counted:
        return
    share = len(counted) / (len(documents) + len(counted))
    # At the limit all is well.
    assert read(source(path, share))[0] == documents
    with pytest.raises(SourceRefusedError) as refusal:
        read(source(path, share * 0.99))
    message = str(refusal.value)
    assert f"source 'bad' is refused: {len(counted)} of" in message
    for reason, count in Counter(reject.reason for reject in counted).items():
        assert f"{reason} {count}" in message
    assert f"first: {path}:{counted[0].position}" in message


def test_all_of_them_beside_one_another_are_what_they_are_alone(tmp_path: Path) -> None:
    alone: Counter[str] = Counter()
    num_documents = 0
    # Ids repeat from file to file, and the packed ones take long.
    files = [file for file in FILES if "huge" not in file.name]
    for number, file in enumerate(files):
        (tmp_path / f"{number:03}-{file.name}").write_bytes(file.body)
        config = replace(source(tmp_path / f"{number:03}-{file.name}"), fields=FieldNames())
        documents, rejects = read(config)
        alone.update(reject.reason for reject in rejects)
        num_documents += len(documents)
    documents, rejects = read(replace(source(tmp_path), fields=FieldNames()))
    assert len(documents) == num_documents
    assert Counter(reject.reason for reject in rejects) == alone


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt", "a.warc"])
def test_a_file_that_vanishes_after_it_was_listed_is_tried_again(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"kept")
    listed = list_source(source(tmp_path))
    (tmp_path / name).unlink()
    rejects: list[Reject] = []
    documents = list(read_objects(source(tmp_path), listed, rejects.append))
    assert [document.text for document in documents] == ["kept"]
    assert [(reject.reason, reject.position) for reject in rejects] == [("unreadable", 0)]
    assert list(next_marks({}, listed, rejects)) == [str(tmp_path / "b.txt")]


def test_a_file_that_vanishes_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl() + b"\n" * 1_000_000)
    config = replace(source(path), fields=FieldNames())
    rejects: list[Reject] = []
    documents = read_objects(config, list_source(config), rejects.append)
    first = next(documents)
    path.unlink()
    assert len([first, *documents]) == 4
    assert rejects == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_file_that_is_cut_while_it_is_read_is_tried_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    good = b'"text"\n' if name == "a.csv" else b""
    line = b'"document-0"\n' if name == "a.csv" else b'{"text": "document-0"}\n'
    path.write_bytes(good + line * 100_000)
    config = replace(source(path), fields=FieldNames())
    listed = list_source(config)
    rejects: list[Reject] = []
    documents = read_objects(config, listed, rejects.append)
    next(documents)
    os.truncate(path, 600_000)
    assert len(list(documents)) > 10_000
    assert rejects[-1].reason == "changed"
    assert next_marks({}, listed, rejects) == {}


def test_the_pages_of_the_archives_are_those_that_were_put_in() -> None:
    # Guards the fixture: a page without its topic as the second word would test nothing.
    assert all(page.isalpha() for page in PAGES)


@pytest.mark.parametrize("name", ["huge.jsonl.gz", "huge.jsonl.zst", "huge.jsonl.bz2"])
def test_a_file_that_unpacks_to_more_than_the_source_allows_is_stopped(
    tmp_path: Path, name: str
) -> None:
    (file,) = (file for file in FILES if file.name == name)
    path = tmp_path / name
    path.write_bytes(file.body)
    documents, rejects = read(replace(source(path), max_unpacked_bytes=50_000_000))
    # Of bzip2 a block is all or nothing, and it may be one with the lines before.
    assert first_words(documents) == file.good[:2]
    assert [reject.reason for reject in rejects] == ["expansion"]
    assert "raise max_expansion or max_unpacked_bytes" in rejects[0].detail


def test_a_refresh_of_all_of_them_keeps_every_good_text_once_and_lists_every_reject(
    tmp_path: Path,
) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    data.mkdir()
    files = [file for file in FILES if "huge" not in file.name]
    for file in files:
        (data / file.name).write_bytes(file.body)
    config = replace(source(data), fields=FieldNames())
    documents, rejects = read(config)
    request = RefreshRequest(
        sources=(config,),
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        curate=CurateConfig(min_chars=1),
    )
    store = LocalObjects(tmp_path / "store")

    result = refresh(store, Layout("demo"), request, by="test", work_dir=work)

    assert result.documents_read == len(documents)
    assert result.lines_rejected == Counter(reject.reason for reject in rejects)
    kept = result.train_documents + result.holdout_documents
    assert kept == len({normalise(document.text) for document in documents})
    again = refresh(store, Layout("demo"), request, by="test", work_dir=work)
    assert (again.files_new, again.snapshot) == (0, None)
