import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.errors import CorruptError, HeadMovedError, LeaseLostError
from storage.head import Head, commit, next_head, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import read_verified, verify
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, read_snapshot
from storage.suite import read_suite
from tasks.curate import CurateConfig
from tasks.curation.annotate import judge
from tasks.curation.annotation_table import read_annotations
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.language import LanguageRules
from tasks.curation.licences import LicenceRules
from tasks.curation.pii import PiiRules
from tasks.documents import SourceRefusedError
from tasks.marks import read_marks
from tasks.paragraphs import ParagraphRules
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_progress import ReadingProgress, UnseenProgress
from tasks.refresh_request import (
    ImportedTokenizer,
    RefreshConfig,
    RefreshRequest,
    RefreshResult,
    StoredTokenizer,
    TrainedTokenizer,
)
from tasks.rejects import rejects_of
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tasks.who_saw import who_saw
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from training.tokenizer import fetch_tokenizer
from training.tokenizer_training import END_OF_TEXT, train_tokenizer

_LAYOUT = Layout("demo")
_WORDS = ["stone", "river", "lamp", "carpet", "window", "harbour", "été", "north", "seven", "\n"]


def _text(seed: int) -> str:
    return f"{seed}: " + " ".join(random.Random(seed).choices(_WORDS, k=30))


def _write(path: Path, seeds: range, **extra: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": _text(n), "id": f"d{n}", **extra}) for n in seeds)
    path.write_text("".join(f"{line}\n" for line in lines))


def _source(directory: Path, name: str = "web", **changes: object) -> SourceConfig:
    source = SourceConfig(
        name=name, uri=str(directory), domain=name, licence="CC0-1.0", fields=FieldNames(id="id")
    )
    return replace(source, **changes)  # pyright: ignore[reportArgumentType]  any field


def _request(*sources: SourceConfig, **changes: object) -> RefreshRequest:
    request = RefreshRequest(
        sources=sources,
        tokenizer=TrainedTokenizer(290),
        seq_len=32,
        holdout=HoldoutConfig(min_clusters=3),
    )
    return replace(request, **changes)  # pyright: ignore[reportArgumentType]  any field


def _refresh(
    store: ObjectStore, request: RefreshRequest, work_dir: Path, lease_token: int | None = None
) -> RefreshResult:
    work_dir.mkdir(exist_ok=True)
    return refresh(store, _LAYOUT, request, by="test", work_dir=work_dir, lease_token=lease_token)


def _head(store: ObjectStore) -> Head:
    head = read_head(store, _LAYOUT)
    assert head is not None
    return head


def _comparable(head: Head) -> Head:
    return replace(head, written_at="")


def _manifest(store: ObjectStore, result: RefreshResult) -> SnapshotManifest:
    assert result.snapshot is not None, result.reason
    return read_snapshot(store, _LAYOUT, result.snapshot)


def _table(store: ObjectStore, snapshot: str) -> list[dict[str, object]]:
    path = store.local_path(f"{_LAYOUT.snapshot(snapshot)}/documents.parquet")
    return pq.read_table(path).to_pylist()


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    _write(tmp_path / "data" / "1.jsonl", range(40))
    return tmp_path / "data"


def test_of_a_file_that_has_grown_a_refresh_reads_the_new_lines_only(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data))
    _refresh(store, request, tmp_path / "work")
    _write(tmp_path / "more.jsonl", range(40, 80))
    with (data / "1.jsonl").open("a") as file:
        file.write((tmp_path / "more.jsonl").read_text())
    result = _refresh(store, request, tmp_path / "work")
    assert result.documents_read == 40
    rows = _table(store, _manifest(store, result).id)
    assert [row["position"] for row in rows] == list(range(41, 81))
    assert _refresh(store, request, tmp_path / "work").snapshot is None


def test_a_refresh_commits_a_pending_snapshot_with_its_marks_and_suite(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    result = _refresh(store, _request(_source(data)), tmp_path / "work")
    manifest, head = _manifest(store, result), _head(store)
    (record,) = head.snapshots
    assert (record.id, record.state, record.role) == (manifest.id, "pending", "new")
    assert result.head == head.number
    assert list(read_marks(store, head.marks)) == [str(data / "1.jsonl")]
    assert head.suite is not None
    (held,) = read_suite(store, _LAYOUT, head.suite).slices
    assert (held.name, held.documents) == (f"web@{manifest.id}", result.holdout_documents)
    assert head.tokenizer == manifest.tokenizer
    assert result.train_documents + result.holdout_documents == 40
    assert list((tmp_path / "work").iterdir()) == []


def test_a_refresh_tells_what_it_read_and_what_became_of_it(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    states: list[ReadingProgress] = []

    class Heard(UnseenProgress):
        def reading(self, state: ReadingProgress) -> None:
            states.append(replace(state, dropped=dict(state.dropped)))

    _write(data / "2.jsonl", range(30, 50))
    (data / "3.jsonl").write_text("{no json\n")
    request = _request(_source(data, fields=FieldNames(), reject_limit=0.5))
    (tmp_path / "work").mkdir()
    refresh(store, _LAYOUT, request, by="test", work_dir=tmp_path / "work", progress=Heard())
    last = states[-1]
    assert (last.documents, last.kept) == (60, 50)
    assert last.dropped == {"duplicate_in_batch": 10}
    assert last.rejected == {"malformed_json": 1}
    assert last.text_bytes == sum(len(_text(n).encode()) for n in (*range(40), *range(30, 50)))
    assert last.bytes_done == last.bytes_total == sum(f.stat().st_size for f in data.iterdir())


def test_annotations_of_all_documents_are_stored_and_other_thresholds_need_no_text(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(data / "code" / "1.jsonl", range(50, 60))
    domains = {"web": DomainRules(gopher=GopherRules(min_words=15, min_stop_words=0))}
    sources = _source(data / "1.jsonl"), _source(data / "code", "code")
    request = _request(*sources, curate=CurateConfig(domains=domains))
    result = _refresh(store, request, tmp_path / "work")
    manifest = _manifest(store, result)
    path = store.local_path(f"{_LAYOUT.snapshot(manifest.id)}/annotations.parquet")
    assert path is not None
    ids = pq.read_table(path).column("document").to_pylist()
    documents = _table(store, manifest.id)
    assert ids == [row["document"] for row in documents]
    of_domain, numbers = read_annotations(path)
    assert judge(numbers, of_domain, domains) == [
        row["reason"] if str(row["reason"]).startswith("gopher") else "" for row in documents
    ]
    stricter = {"web": DomainRules(gopher=GopherRules(min_words=10_000))}
    reasons = judge(numbers, of_domain, stricter)
    assert "gopher_quality:too_few_words" in reasons
    assert [not reason for reason in reasons] == [domain == "code" for domain in of_domain]


def test_rules_drop_and_mask_by_domain_and_the_refresh_tells_why(
    store: LocalObjects, tmp_path: Path
) -> None:
    texts = {
        "good": [_text(n) + " mail jane.doe@corp-mail.org" for n in range(20)],
        "english": ["This is plainly a sentence of the English language, and a long one too."],
    }
    for name, lines in texts.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in lines)
        )
    sources = [
        _source(tmp_path / f"{name}.jsonl", name, fields=FieldNames()) for name in sorted(texts)
    ]
    curate = CurateConfig(
        domains={
            "good": DomainRules(pii=PiiRules()),
            "english": DomainRules(language=LanguageRules(allow=("de",))),
        }
    )
    result = _refresh(store, _request(*sources, curate=curate), tmp_path / "work")
    assert result.documents_dropped == {"language:not_allowed": 1}
    assert "1 were dropped (language:not_allowed 1)" in result.reason
    assert result.warnings[-1] == "personal data and secrets found: email 20"
    shards = _LAYOUT.snapshot(_manifest(store, result).id)
    for info in store.list(shards):
        assert b"jane.doe" not in store.get(info.key)


def test_rules_that_leave_nothing_of_a_domain_are_told_and_known_text_is_not(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(data / "code" / "1.jsonl", range(50, 90))
    sources = _source(data / "1.jsonl"), _source(data / "code", "code")
    strict = CurateConfig(domains={"web": DomainRules(gopher=GopherRules())})
    result = _refresh(store, _request(*sources, curate=strict), tmp_path / "work")
    (told,) = (each for each in result.warnings if "were dropped" in each)
    assert told.startswith("domain web: 40 of 40 documents were dropped, most for gopher_")
    # The same texts in another file of the other domain are known, which is as it should be.
    _write(data / "code" / "2.jsonl", range(50, 90), note="again")
    again = _refresh(store, _request(*sources, curate=strict), tmp_path / "work")
    assert again.documents_dropped == {"duplicate": 40}
    assert not [each for each in again.warnings if "were dropped" in each]


def test_a_text_that_the_rules_changed_is_found_as_it_was_delivered(
    store: LocalObjects, tmp_path: Path
) -> None:
    _write(tmp_path / "data" / "1.jsonl", range(40))
    delivered = _text(99) + " mail jane.doe@corp-mail.org\r\n"
    with (tmp_path / "data" / "1.jsonl").open("a") as file:
        file.write(json.dumps({"text": delivered, "id": "d99"}) + "\n")
    curate = CurateConfig(domains={"*": DomainRules(pii=PiiRules())})
    _refresh(store, _request(_source(tmp_path / "data"), curate=curate), tmp_path / "work")
    work_dir = tmp_path / "asking"
    found = who_saw(store, _LAYOUT, [_head(store)], texts=[delivered], work_dir=work_dir)
    assert [sighting.document for sighting in found] == ["web/d99"]
    assert not who_saw(store, _LAYOUT, [_head(store)], texts=[_text(99)], work_dir=work_dir)


def test_a_licence_that_is_denied_is_never_trained_on(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "other" / "1.jsonl", range(50, 60))
    curate = CurateConfig(licences={"web": LicenceRules(deny=("cc0-*",))})
    request = _request(_source(data), _source(tmp_path / "other", "other"), curate=curate)
    result = _refresh(store, request, tmp_path / "work")
    assert result.documents_dropped == {"licence:denied": 40}


def test_without_rules_a_snapshot_has_no_annotations(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    manifest = _manifest(store, _refresh(store, _request(_source(data)), tmp_path / "work"))
    assert "annotations.parquet" not in {file.name for file in manifest.files}


def test_a_snapshot_is_the_same_whichever_way_its_documents_were_encoded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_store, fast_store = LocalObjects(tmp_path / "slow"), LocalObjects(tmp_path / "fast")
    request = _request(_source(data))
    slow = _manifest(slow_store, _refresh(slow_store, request, tmp_path / "work"))
    monkeypatch.setattr("tasks.encode._MANY_CHARACTERS", 1)
    monkeypatch.setattr("training.fast_bpe.certify.NUM_TRIALS", 100)
    fast = _manifest(fast_store, _refresh(fast_store, request, tmp_path / "work"))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["certified-tokenizers"]
    assert (fast.id, fast.content, fast.files) == (slow.id, slow.content, slow.files)


def test_every_file_of_a_snapshot_is_verified_and_named(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    manifest = _manifest(store, _refresh(store, _request(_source(data)), tmp_path / "work"))
    prefix = _LAYOUT.snapshot(manifest.id)
    verify(store, prefix, manifest.files)
    names = {file.name for file in manifest.files}
    assert {"documents.parquet", "rejects.jsonl.zst", "unigram.bin", "consumed.json"} < names
    stored = {info.key.removeprefix(f"{prefix}/") for info in store.list(prefix)}
    assert stored == names | {"manifest.json"}


def test_the_shards_hold_the_documents_that_the_table_says(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()  # which streaming imports
    from streaming.base.format import reader_from_json

    manifest = _manifest(store, _refresh(store, _request(_source(data)), tmp_path / "work"))
    rows: dict[str, list[dict[str, object]]] = {}
    for split in ("train", "holdout"):
        index = store.local_path(f"{_LAYOUT.shards(manifest.id, 'web', split)}/index.json")
        assert index is not None
        shards = json.loads(index.read_text())["shards"]
        readers = [reader_from_json(str(index.parent), None, shard) for shard in shards]
        rows[split] = [reader[i] for reader in readers for i in range(reader.size)]
    tokenizer = fetch_tokenizer(store, manifest.tokenizer, tmp_path / "tokenizer")
    train = np.stack([np.asarray(row["tokens"]) for row in rows["train"]])
    stream = np.concatenate([train[:1, 0], train[:, 1:].reshape(-1)])
    held = {row["document"]: row for row in rows["holdout"]}
    texts = {f"web/d{n}": _text(n) for n in range(40)}
    for row in _table(store, manifest.id):
        text = texts.pop(str(row["document"]))
        if row["split"] == "train":
            first, length = row["first_token"], row["tokens"]
            assert isinstance(first, int)
            assert isinstance(length, int)
            tokens = stream[first : first + length]
        else:
            kept = held.pop(row["document"])
            assert (kept["cluster"], kept["text_bytes"]) == (row["cluster"], len(text.encode()))
            assert isinstance(kept["tokens"], bytes)
            tokens = np.frombuffer(kept["tokens"], "<u2")
            assert tokens[-1] == manifest.end_id
        assert tokens[0] == manifest.start_id
        assert tokenizer.decode(tokens) == text
    assert not texts
    assert not held


def test_unigram_counts_are_those_of_the_training_targets(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    manifest = _manifest(store, _refresh(store, _request(_source(data)), tmp_path / "work"))
    (file,) = (file for file in manifest.files if file.name == "unigram.bin")
    counts = np.frombuffer(read_verified(store, _LAYOUT.snapshot(manifest.id), file), "<i8")
    (domain,) = manifest.domains
    assert len(counts) == manifest.vocab_size
    assert counts.sum() == domain.train_tokens
    assert counts[manifest.end_id] == domain.train_documents


def test_a_second_refresh_has_nothing_to_do(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data))
    _refresh(store, request, tmp_path / "work")
    before = _head(store)
    again = _refresh(store, request, tmp_path / "work")
    assert again.snapshot is None
    assert again.reason == "nothing new: all 1 files of the sources were read before"
    assert _head(store) == before


def test_rejects_are_a_warning_of_the_refresh_and_of_every_later_look_at_its_snapshot(
    store: LocalObjects, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = (
        '{"text": "cut off\n'
        + '{"no": "text"}\n'
        + json.dumps({"text": _text(99), "id": "d99"})
        + "\n"
    )
    (data / "2.jsonl").write_text(bad)
    request = _request(_source(data, reject_limit=0.5))
    result = _refresh(store, request, tmp_path / "work")
    told = "2 of 43 documents rejected (1 malformed_json, 1 missing_text; first: 2.jsonl:1); all "
    (warning,) = [warning for warning in result.warnings if "rejected" in warning]
    assert warning.startswith(told), warning
    assert rejects_of(store, _LAYOUT, _manifest(store, result)) == warning
    logged = [record for record in caplog.records if "rejected" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in logged] == [("WARNING", warning)]


def test_rejects_are_told_also_when_nothing_is_left_to_train_on(
    store: LocalObjects, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.jsonl").write_text("no JSON\n")
    result = _refresh(
        store, _request(_source(tmp_path / "data", reject_limit=1)), tmp_path / "work"
    )
    assert result.snapshot is None
    assert result.warnings == ("1 of 1 documents rejected (1 malformed_json; first: 1.jsonl:1)",)


def test_a_source_without_a_file_is_a_warning_that_names_source_and_pattern(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data), _source(tmp_path / "dta" / "*.jsonl", "news"))
    told = f"source news: no file matches {tmp_path}/dta/*.jsonl"
    assert told in _refresh(store, request, tmp_path / "work").warnings
    (data / "1.jsonl").unlink()
    again = _refresh(store, request, tmp_path / "work")
    assert again.reason == "no file matches the uri of any source"
    assert again.warnings == (told, f"source web: no file matches {data}")


def test_sources_that_have_never_matched_a_file_are_an_error(
    store: LocalObjects, tmp_path: Path
) -> None:
    request = _request(_source(tmp_path / "dta" / "*.jsonl"))
    with pytest.raises(ValueError, match=r"no source has ever matched a file \(source web: no"):
        _refresh(store, request, tmp_path / "work")
    assert read_head(store, _LAYOUT) is None


def test_only_new_files_are_read_and_a_duplicate_of_an_earlier_refresh_is_dropped(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data))
    first = _manifest(store, _refresh(store, request, tmp_path / "work"))
    _write(data / "2.jsonl", range(38, 60))
    result = _refresh(store, request, tmp_path / "work")
    second = _manifest(store, result)
    assert (result.files_listed, result.files_new) == (2, 1)
    assert (second.documents_read, second.documents_dropped) == (22, {"duplicate": 2})
    assert second.tokenizer == first.tokenizer
    assert [record.id for record in _head(store).snapshots] == [first.id, second.id]
    assert len(read_marks(store, _head(store).marks)) == 2
    reasons = {row["document"]: (row["split"], row["reason"]) for row in _table(store, second.id)}
    assert reasons["web/d38"] == ("dropped", "duplicate")


def test_no_cluster_is_on_both_sides_over_refreshes(store: LocalObjects, tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = _source(data, fields=FieldNames(id="id", cluster="site"))
    request = _request(source, holdout=HoldoutConfig(fraction=0.2, max_tokens=400))
    sides: dict[str, set[object]] = {}
    for number in range(3):
        for site in range(8):
            seeds = range(100 * number + 4 * site, 100 * number + 4 * site + 4)
            _write(data / f"{number}-{site}.jsonl", seeds, site=f"site{site + number}")
        manifest = _manifest(store, _refresh(store, request, tmp_path / "work"))
        for row in _table(store, manifest.id):
            side = "train" if row["split"] == "train" else "holdout"
            assert row["reason"] == ("holdout_cap" if row["split"] == "dropped" else "")
            sides.setdefault(str(row["cluster"]), set()).add(side)
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values())
    assert {"train"} in sides.values()
    assert {"holdout"} in sides.values()


def test_two_fresh_runs_give_the_same_snapshot_and_the_same_bytes(
    data: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "code" / "1.jsonl", range(100, 120))
    web, code = _source(data), _source(tmp_path / "code", "code")
    stores = [LocalObjects(tmp_path / f"store{n}") for n in range(2)]
    for number, (store, sources) in enumerate(zip(stores, [(web, code), (code, web)], strict=True)):
        _refresh(store, _request(*sources), tmp_path / f"work{number}")
    bodies = [
        {
            info.key: store.get(info.key)
            for info in store.list(f"{_LAYOUT.root}/snapshots")
            if not info.key.endswith("/manifest.json")
        }
        for store in stores
    ]
    assert bodies[0] == bodies[1]
    heads = [_comparable(_head(store)) for store in stores]
    assert heads[0] == heads[1]


def test_a_domain_of_two_sources_keeps_documents_of_the_same_id_apart(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "more" / "1.jsonl", range(200, 240))
    path = tmp_path / "more" / "1.jsonl"
    path.write_text(path.read_text().replace('"id": "d2', '"id": "d'))
    sources = (_source(data), _source(tmp_path / "more", "more", domain="web"))
    manifest = _manifest(store, _refresh(store, _request(*sources), tmp_path / "work"))
    (domain,) = manifest.domains
    assert domain.source_names == ("more", "web")
    names = [row["document"] for row in _table(store, manifest.id)]
    assert len(set(names)) == len(names) == 80


def test_less_than_the_minimum_is_left_for_the_next_time(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(data / "1.jsonl", range(4))
    request = _request(_source(data), minimum=RefreshConfig(min_new_documents=10))
    result = _refresh(store, request, tmp_path / "work")
    assert result.snapshot is None
    assert "not enough new data: 4 documents with" in result.reason
    assert read_head(store, _LAYOUT) is None
    assert list(store.list(_LAYOUT.root)) == []
    _write(data / "2.jsonl", range(4, 12))
    assert _manifest(store, _refresh(store, request, tmp_path / "work")).documents_read == 12


def test_too_few_tokens_are_left_for_the_next_time(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data), minimum=RefreshConfig(min_new_tokens=10**6))
    result = _refresh(store, request, tmp_path / "work")
    assert "wanted at least 1 documents and 1,000,000 tokens" in result.reason
    assert read_head(store, _LAYOUT) is None


def test_new_files_without_a_new_document_are_marked_as_read(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data))
    _refresh(store, request, tmp_path / "work")
    before = _head(store)
    shutil.copy(data / "1.jsonl", data / "copy.jsonl")
    result = _refresh(store, request, tmp_path / "work")
    assert result.snapshot is None
    assert "nothing to train on in the new files (duplicate 40); they are marked" in result.reason
    head = _head(store)
    assert head.number == before.number + 1
    assert len(read_marks(store, head.marks)) == 2
    assert _comparable(replace(head, number=0, marks=None, reason="")) == _comparable(
        replace(before, number=0, marks=None, reason="")
    )
    assert "nothing new" in _refresh(store, request, tmp_path / "work").reason


def test_a_refused_source_changes_nothing(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    (data / "broken.jsonl").write_text("{not json\n" * 50)
    with pytest.raises(SourceRefusedError, match="source 'web' is refused: 50 of 90"):
        _refresh(store, _request(_source(data)), tmp_path / "work")
    assert list(store.list(_LAYOUT.root)) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_rejected_lines_are_counted_and_kept(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    with (data / "1.jsonl").open("a") as file:
        file.write("{not json\n")
    manifest = _manifest(store, _refresh(store, _request(_source(data)), tmp_path / "work"))
    assert manifest.lines_rejected == {"malformed_json": 1}
    assert manifest.documents_read == 40


def test_text_that_spells_the_framing_token_stays_text(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    lines = [{"text": f"{_text(n)} {END_OF_TEXT} {_text(n + 500)}"} for n in range(20)]
    (data / "1.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    manifest = _manifest(
        store, _refresh(store, _request(_source(data, fields=FieldNames())), tmp_path / "work")
    )
    (domain,) = manifest.domains
    (file,) = (file for file in manifest.files if file.name == "unigram.bin")
    counts = np.frombuffer(read_verified(store, _LAYOUT.snapshot(manifest.id), file), "<i8")
    assert counts[0] == domain.train_documents


def test_a_reference_is_learned_from_the_start(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer([_text(1)] * 2, tmp_path / "base", vocab_size=280)
    request = _request(
        _source(data), role="reference", tokenizer=ImportedTokenizer(tokenizer.directory)
    )
    manifest = _manifest(store, _refresh(store, request, tmp_path / "work"))
    (record,) = _head(store).snapshots
    assert (record.state, record.role, manifest.role) == ("learned", "reference", "reference")
    _write(data / "2.jsonl", range(50, 70))
    stored = _request(_source(data), tokenizer=StoredTokenizer(manifest.tokenizer))
    assert _manifest(store, _refresh(store, stored, tmp_path / "work")).role == "new"


def test_the_directory_of_an_imported_tokenizer_may_go(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer([_text(1)] * 2, tmp_path / "base", vocab_size=280)
    request = _request(_source(data), tokenizer=ImportedTokenizer(tokenizer.directory))
    first = _manifest(store, _refresh(store, request, tmp_path / "work"))
    shutil.rmtree(tmp_path / "base")
    _write(data / "2.jsonl", range(50, 70))
    second = _manifest(store, _refresh(store, request, tmp_path / "work"))
    assert second.tokenizer == first.tokenizer


def test_a_domain_cannot_have_the_name_of_a_file(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data, domain="documents.parquet"))
    with pytest.raises(
        ValueError, match=r"domain 'documents\.parquet' of source 'web' is the name"
    ):
        _refresh(store, request, tmp_path / "work")


def test_a_domain_may_be_called_tokenizer_and_snapshot(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "more" / "1.jsonl", range(200, 220))
    sources = (
        _source(data, domain="tokenizer"),
        _source(tmp_path / "more", "more", domain="snapshot"),
    )
    manifest = _manifest(store, _refresh(store, _request(*sources), tmp_path / "work"))
    assert [domain.domain for domain in manifest.domains] == ["snapshot", "tokenizer"]


def test_another_tokenizer_or_length_of_samples_does_not_fit_the_lineage(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = _request(_source(data))
    _refresh(store, request, tmp_path / "work")
    _write(data / "2.jsonl", range(50, 70))
    with pytest.raises(ValueError, match="seq_len is 64, but the snapshots of demo have 32"):
        _refresh(store, replace(request, seq_len=64), tmp_path / "work")
    train_tokenizer(["other text"] * 9, tmp_path / "other", vocab_size=270)
    other = replace(request, tokenizer=ImportedTokenizer(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"demo has data of the tokenizer \w+, the request brings"):
        _refresh(store, other, tmp_path / "work")


def test_a_refresh_commits_on_top_of_a_head_that_moved_without_touching_its_data(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    _refresh(store, _request(_source(data)), tmp_path / "work")
    _write(data / "2.jsonl", range(50, 70))

    class Meanwhile(KillingObjects):
        """Commits something else as soon as the snapshot is uploaded."""

        def put_file(self, key: str, path: Path, **options: Any) -> None:
            super().put_file(key, path, **options)
            if key.endswith("/consumed.json"):
                moved = next_head(_head(store), action="promote", by="other", champion="v1")
                commit(store, _LAYOUT, moved)

    result = _refresh(Meanwhile(store), _request(_source(data)), tmp_path / "work")
    head = _head(store)
    assert (head.champion, head.snapshots[-1].id, head.number) == ("v1", result.snapshot, 4)


def test_two_refreshes_at_once_have_one_winner(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    class Meanwhile(KillingObjects):
        """Another refresh, of other files, commits as soon as this one's snapshot is uploaded."""

        def put_file(self, key: str, path: Path, **options: Any) -> None:
            super().put_file(key, path, **options)
            if key.endswith("/consumed.json"):
                _write(data / "2.jsonl", range(50, 70))
                _refresh(store, _request(_source(data)), tmp_path / "other")

    with pytest.raises(HeadMovedError, match="test committed head 2 of demo"):
        _refresh(Meanwhile(store), _request(_source(data)), tmp_path / "work")
    (record,) = _head(store).snapshots
    assert read_snapshot(store, _LAYOUT, record.id).documents_read == 60


def test_a_lost_lease_commits_nothing(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    commit(
        store,
        _LAYOUT,
        next_head(None, action="init", by="newer", lineage="demo", lease_token=7),
    )
    with pytest.raises(LeaseLostError, match="under lease token 6"):
        _refresh(store, _request(_source(data)), tmp_path / "work", lease_token=6)
    assert _head(store).number == 1
    assert _refresh(store, _request(_source(data)), tmp_path / "work", lease_token=8).snapshot
    assert _head(store).lease_token == 8


def test_altered_marks_are_found(store: LocalObjects, data: Path, tmp_path: Path) -> None:
    _refresh(store, _request(_source(data)), tmp_path / "work")
    key = _head(store).marks
    assert key is not None
    store.put(key, b"{}")
    with pytest.raises(CorruptError, match=r"marks/.*was altered"):
        _refresh(store, _request(_source(data)), tmp_path / "work")


def test_a_refresh_that_is_killed_anywhere_ends_in_the_same_head_when_run_again(
    data: Path, tmp_path: Path
) -> None:
    _write(data / "1.jsonl", range(12))
    request = _request(_source(data))
    reference = LocalObjects(tmp_path / "reference")
    work = tmp_path / "work"
    operations = count_operations(reference, lambda store: _refresh(store, request, work))
    wanted = _comparable(_head(reference))
    for number, point in enumerate(kill_points(operations)):
        root = tmp_path / f"store{number}"
        killing = KillingObjects(LocalObjects(root), **point)
        ended = run_killed(lambda store=killing: _refresh(store, request, work))
        assert ended.killed, ended.error
        store = LocalObjects(root)
        _refresh(store, request, work)
        assert _comparable(_head(store)) == wanted
        assert "nothing new" in _refresh(store, request, work).reason
        shutil.rmtree(root)


def test_importing_refresh_stays_light() -> None:
    statement = (
        "import sys, tasks.refresh\n"
        "heavy = {'torch', 'streaming', 'transformers', 'pyarrow', 'tokenizers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_text_put_together_from_earlier_ones_is_dropped_also_by_a_later_refresh(
    store: LocalObjects, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()

    def line(seed: int) -> str:
        return f"{seed}: " + " ".join(random.Random(seed).choices(_WORDS[:-1], k=20))

    texts = ["\n".join(line(10 * n + m) for m in range(4)) for n in range(12)]
    mixed = "\n".join(text.split("\n")[1] for text in texts[:6])

    def write(name: str, rows: list[str]) -> None:
        lines = (json.dumps({"text": text, "id": f"{name}{n}"}) for n, text in enumerate(rows))
        (folder / name).write_text("\n".join(lines))

    rules = {"*": DomainRules(paragraphs=ParagraphRules())}
    request = _request(_source(folder), curate=CurateConfig(domains=rules))
    write("a.jsonl", [*texts, mixed])
    first = _manifest(store, _refresh(store, request, tmp_path / "work"))
    assert first.documents_dropped == {"paragraph_duplicates": 1}
    write("b.jsonl", [*map(line, range(500, 512)), mixed + "\n" + line(900)])
    again = _refresh(store, request, tmp_path / "work")
    assert _manifest(store, again).documents_dropped == {"paragraph_duplicates": 1}
