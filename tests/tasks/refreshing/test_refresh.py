import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.head import read_head
from storage.local_objects import LocalObjects
from storage.manifest import read_verified, verify
from storage.suite import read_suite
from tasks.marks import read_marks
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_progress import ReadingProgress, UnseenProgress
from tasks.refresh_request import (
    ImportedTokenizer,
    RefreshConfig,
    StoredTokenizer,
)
from tasks.rejects import rejects_of
from tasks.split import HoldoutConfig
from tests.tasks.refreshing.small_refresh import (
    LAYOUT,
    comparable,
    head_of,
    manifest_of,
    refresh_once,
    request_for,
    source_in,
    table_of,
    text_of,
    write_documents,
)
from training.tokenizer import fetch_tokenizer
from training.tokenizer_training import END_OF_TEXT, train_tokenizer


def test_of_a_file_that_has_grown_a_refresh_reads_the_new_lines_only(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data))
    refresh_once(store, request, tmp_path / "work")
    write_documents(tmp_path / "more.jsonl", range(40, 80))
    with (data / "1.jsonl").open("a") as file:
        file.write((tmp_path / "more.jsonl").read_text())
    result = refresh_once(store, request, tmp_path / "work")
    assert result.documents_read == 40
    rows = table_of(store, manifest_of(store, result).id)
    assert [row["position"] for row in rows] == list(range(41, 81))
    assert refresh_once(store, request, tmp_path / "work").snapshot is None


def test_a_refresh_commits_a_pending_snapshot_with_its_marks_and_suite(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    result = refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    manifest, head = manifest_of(store, result), head_of(store)
    (record,) = head.snapshots
    assert (record.id, record.state, record.role) == (manifest.id, "pending", "new")
    assert result.head == head.number
    assert list(read_marks(store, head.marks)) == [str(data / "1.jsonl")]
    assert head.suite is not None
    (held,) = read_suite(store, LAYOUT, head.suite).slices
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

    write_documents(data / "2.jsonl", range(30, 50))
    (data / "3.jsonl").write_text("{no json\n")
    request = request_for(source_in(data, fields=FieldNames(), reject_limit=0.5))
    (tmp_path / "work").mkdir()
    refresh(store, LAYOUT, request, by="test", work_dir=tmp_path / "work", progress=Heard())
    last = states[-1]
    assert (last.documents, last.kept) == (60, 50)
    assert last.dropped == {"duplicate_in_batch": 10}
    assert last.rejected == {"malformed_json": 1}
    assert last.text_bytes == sum(len(text_of(n).encode()) for n in (*range(40), *range(30, 50)))
    assert last.bytes_done == last.bytes_total == sum(f.stat().st_size for f in data.iterdir())


def test_a_snapshot_is_the_same_whichever_way_its_documents_were_encoded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_store, fast_store = LocalObjects(tmp_path / "slow"), LocalObjects(tmp_path / "fast")
    request = request_for(source_in(data))
    slow = manifest_of(slow_store, refresh_once(slow_store, request, tmp_path / "work"))
    monkeypatch.setattr("tasks.encode._MANY_CHARACTERS", 1)
    monkeypatch.setattr("training.fast_bpe.certify.NUM_TRIALS", 100)
    fast = manifest_of(fast_store, refresh_once(fast_store, request, tmp_path / "work"))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["certified-tokenizers"]
    assert (fast.id, fast.content, fast.files) == (slow.id, slow.content, slow.files)


def test_every_file_of_a_snapshot_is_verified_and_named(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    manifest = manifest_of(
        store, refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    )
    prefix = LAYOUT.snapshot(manifest.id)
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

    manifest = manifest_of(
        store, refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    )
    rows: dict[str, list[dict[str, object]]] = {}
    for split in ("train", "holdout"):
        index = store.local_path(f"{LAYOUT.shards(manifest.id, 'web', split)}/index.json")
        assert index is not None
        shards = json.loads(index.read_text())["shards"]
        readers = [reader_from_json(str(index.parent), None, shard) for shard in shards]
        rows[split] = [reader[i] for reader in readers for i in range(reader.size)]
    tokenizer = fetch_tokenizer(store, manifest.tokenizer, tmp_path / "tokenizer")
    train = np.stack([np.asarray(row["tokens"]) for row in rows["train"]])
    stream = np.concatenate([train[:1, 0], train[:, 1:].reshape(-1)])
    held = {row["document"]: row for row in rows["holdout"]}
    texts = {f"web/d{n}": text_of(n) for n in range(40)}
    for row in table_of(store, manifest.id):
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
    manifest = manifest_of(
        store, refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    )
    (file,) = (file for file in manifest.files if file.name == "unigram.bin")
    counts = np.frombuffer(read_verified(store, LAYOUT.snapshot(manifest.id), file), "<i8")
    (domain,) = manifest.domains
    assert len(counts) == manifest.vocab_size
    assert counts.sum() == domain.train_tokens
    assert counts[manifest.end_id] == domain.train_documents


def test_rejects_are_a_warning_of_the_refresh_and_of_every_later_look_at_its_snapshot(
    store: LocalObjects, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = (
        '{"text": "cut off\n'
        + '{"no": "text"}\n'
        + json.dumps({"text": text_of(99), "id": "d99"})
        + "\n"
    )
    (data / "2.jsonl").write_text(bad)
    request = request_for(source_in(data, reject_limit=0.5))
    result = refresh_once(store, request, tmp_path / "work")
    told = "2 of 43 documents rejected (1 malformed_json, 1 missing_text; first: 2.jsonl:1); all "
    (warning,) = [warning for warning in result.warnings if "rejected" in warning]
    assert warning.startswith(told), warning
    assert rejects_of(store, LAYOUT, manifest_of(store, result)) == warning
    logged = [record for record in caplog.records if "rejected" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in logged] == [("WARNING", warning)]


def test_rejects_are_told_also_when_nothing_is_left_to_train_on(
    store: LocalObjects, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.jsonl").write_text("no JSON\n")
    result = refresh_once(
        store, request_for(source_in(tmp_path / "data", reject_limit=1)), tmp_path / "work"
    )
    assert result.snapshot is None
    assert result.warnings == ("1 of 1 documents rejected (1 malformed_json; first: 1.jsonl:1)",)


def test_a_source_without_a_file_is_a_warning_that_names_source_and_pattern(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data), source_in(tmp_path / "dta" / "*.jsonl", "news"))
    told = f"source news: no file matches {tmp_path}/dta/*.jsonl"
    assert told in refresh_once(store, request, tmp_path / "work").warnings
    (data / "1.jsonl").unlink()
    again = refresh_once(store, request, tmp_path / "work")
    assert again.reason == "no file matches the uri of any source"
    assert again.warnings == (told, f"source web: no file matches {data}")


def test_sources_that_have_never_matched_a_file_are_an_error(
    store: LocalObjects, tmp_path: Path
) -> None:
    request = request_for(source_in(tmp_path / "dta" / "*.jsonl"))
    with pytest.raises(ValueError, match=r"no source has ever matched a file \(source web: no"):
        refresh_once(store, request, tmp_path / "work")
    assert read_head(store, LAYOUT) is None


def test_only_new_files_are_read_and_a_duplicate_of_an_earlier_refresh_is_dropped(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data))
    first = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
    write_documents(data / "2.jsonl", range(38, 60))
    result = refresh_once(store, request, tmp_path / "work")
    second = manifest_of(store, result)
    assert (result.files_listed, result.files_new) == (2, 1)
    assert (second.documents_read, second.documents_dropped) == (22, {"duplicate": 2})
    assert second.tokenizer == first.tokenizer
    assert [record.id for record in head_of(store).snapshots] == [first.id, second.id]
    assert len(read_marks(store, head_of(store).marks)) == 2
    reasons = {row["document"]: (row["split"], row["reason"]) for row in table_of(store, second.id)}
    assert reasons["web/d38"] == ("dropped", "duplicate")


def test_no_cluster_is_on_both_sides_over_refreshes(store: LocalObjects, tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = source_in(data, fields=FieldNames(id="id", cluster="site"))
    request = request_for(source, holdout=HoldoutConfig(fraction=0.2, max_tokens=400))
    sides: dict[str, set[object]] = {}
    for number in range(3):
        for site in range(8):
            seeds = range(100 * number + 4 * site, 100 * number + 4 * site + 4)
            write_documents(data / f"{number}-{site}.jsonl", seeds, site=f"site{site + number}")
        manifest = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
        for row in table_of(store, manifest.id):
            side = "train" if row["split"] == "train" else "holdout"
            assert row["reason"] == ("holdout_cap" if row["split"] == "dropped" else "")
            sides.setdefault(str(row["cluster"]), set()).add(side)
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values())
    assert {"train"} in sides.values()
    assert {"holdout"} in sides.values()


def test_a_domain_of_two_sources_keeps_documents_of_the_same_id_apart(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(tmp_path / "more" / "1.jsonl", range(200, 240))
    path = tmp_path / "more" / "1.jsonl"
    path.write_text(path.read_text().replace('"id": "d2', '"id": "d'))
    sources = (source_in(data), source_in(tmp_path / "more", "more", domain="web"))
    manifest = manifest_of(store, refresh_once(store, request_for(*sources), tmp_path / "work"))
    (domain,) = manifest.domains
    assert domain.source_names == ("more", "web")
    names = [row["document"] for row in table_of(store, manifest.id)]
    assert len(set(names)) == len(names) == 80


def test_less_than_the_minimum_is_left_for_the_next_time(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(data / "1.jsonl", range(4))
    request = request_for(source_in(data), minimum=RefreshConfig(min_new_documents=10))
    result = refresh_once(store, request, tmp_path / "work")
    assert result.snapshot is None
    assert "not enough new data: 4 documents with" in result.reason
    assert read_head(store, LAYOUT) is None
    assert list(store.list(LAYOUT.root)) == []
    write_documents(data / "2.jsonl", range(4, 12))
    assert manifest_of(store, refresh_once(store, request, tmp_path / "work")).documents_read == 12


def test_too_few_tokens_are_left_for_the_next_time(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data), minimum=RefreshConfig(min_new_tokens=10**6))
    result = refresh_once(store, request, tmp_path / "work")
    assert "wanted at least 1 documents and 1,000,000 tokens" in result.reason
    assert read_head(store, LAYOUT) is None


def test_new_files_without_a_new_document_are_marked_as_read(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data))
    refresh_once(store, request, tmp_path / "work")
    before = head_of(store)
    shutil.copy(data / "1.jsonl", data / "copy.jsonl")
    result = refresh_once(store, request, tmp_path / "work")
    assert result.snapshot is None
    assert "nothing to train on in the new files (duplicate 40); they are marked" in result.reason
    head = head_of(store)
    assert head.number == before.number + 1
    assert len(read_marks(store, head.marks)) == 2
    assert comparable(replace(head, number=0, marks=None, reason="")) == comparable(
        replace(before, number=0, marks=None, reason="")
    )
    assert "nothing new" in refresh_once(store, request, tmp_path / "work").reason


def test_rejected_lines_are_counted_and_kept(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    with (data / "1.jsonl").open("a") as file:
        file.write("{not json\n")
    manifest = manifest_of(
        store, refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    )
    assert manifest.lines_rejected == {"malformed_json": 1}
    assert manifest.documents_read == 40


def test_text_that_spells_the_framing_token_stays_text(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    lines = [{"text": f"{text_of(n)} {END_OF_TEXT} {text_of(n + 500)}"} for n in range(20)]
    (data / "1.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    manifest = manifest_of(
        store,
        refresh_once(store, request_for(source_in(data, fields=FieldNames())), tmp_path / "work"),
    )
    (domain,) = manifest.domains
    (file,) = (file for file in manifest.files if file.name == "unigram.bin")
    counts = np.frombuffer(read_verified(store, LAYOUT.snapshot(manifest.id), file), "<i8")
    assert counts[0] == domain.train_documents


def test_a_reference_is_learned_from_the_start(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer([text_of(1)] * 2, tmp_path / "base", vocab_size=280)
    request = request_for(
        source_in(data), role="reference", tokenizer=ImportedTokenizer(tokenizer.directory)
    )
    manifest = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
    (record,) = head_of(store).snapshots
    assert (record.state, record.role, manifest.role) == ("learned", "reference", "reference")
    write_documents(data / "2.jsonl", range(50, 70))
    stored = request_for(source_in(data), tokenizer=StoredTokenizer(manifest.tokenizer))
    assert manifest_of(store, refresh_once(store, stored, tmp_path / "work")).role == "new"


def test_the_directory_of_an_imported_tokenizer_may_go(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer([text_of(1)] * 2, tmp_path / "base", vocab_size=280)
    request = request_for(source_in(data), tokenizer=ImportedTokenizer(tokenizer.directory))
    first = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
    shutil.rmtree(tmp_path / "base")
    write_documents(data / "2.jsonl", range(50, 70))
    second = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
    assert second.tokenizer == first.tokenizer


def test_a_domain_cannot_have_the_name_of_a_file(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data, domain="documents.parquet"))
    with pytest.raises(
        ValueError, match=r"domain 'documents\.parquet' of source 'web' is the name"
    ):
        refresh_once(store, request, tmp_path / "work")


def test_a_domain_may_be_called_tokenizer_and_snapshot(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(tmp_path / "more" / "1.jsonl", range(200, 220))
    sources = (
        source_in(data, domain="tokenizer"),
        source_in(tmp_path / "more", "more", domain="snapshot"),
    )
    manifest = manifest_of(store, refresh_once(store, request_for(*sources), tmp_path / "work"))
    assert [domain.domain for domain in manifest.domains] == ["snapshot", "tokenizer"]


def test_another_tokenizer_or_length_of_samples_does_not_fit_the_lineage(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    request = request_for(source_in(data))
    refresh_once(store, request, tmp_path / "work")
    write_documents(data / "2.jsonl", range(50, 70))
    with pytest.raises(ValueError, match="seq_len is 64, but the snapshots of demo have 32"):
        refresh_once(store, replace(request, seq_len=64), tmp_path / "work")
    train_tokenizer(["other text"] * 9, tmp_path / "other", vocab_size=270)
    other = replace(request, tokenizer=ImportedTokenizer(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"demo has data of the tokenizer \w+, the request brings"):
        refresh_once(store, other, tmp_path / "work")


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
