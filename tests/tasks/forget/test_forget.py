"""Documents that are taken down: nothing of them is left, and nothing like them comes in again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.file_cache import FileCache
from storage.gc import find_garbage
from storage.head import Head, commit_change, next_head
from storage.lease import Lease
from storage.local_objects import LocalObjects
from storage.snapshots import read_snapshot
from storage.suite import publish_suite, read_suite, suite_with_tasks
from storage.takedowns import check_no_takedown
from tasks.evaluations.frozen import FrozenItem, freeze_items, read_items
from tasks.mix import ReplayConfig
from tasks.plan import PlanRequest, make_plan
from tasks.update_plan import BudgetConfig, UpdatePlan, save_plan
from tests.support.lineages import MODEL
from tests.tasks.forget.scene import LAYOUT, SEQ_LEN, Scene, files_with, words
from training.config import Recipe
from training.data.shards import MdsReader, TrainShards, read_holdout
from training.items.item import Item


def _train_rows(scene: Scene, snapshot: str) -> np.ndarray:
    manifest = read_snapshot(scene.store, LAYOUT, snapshot)
    prefix, cache = LAYOUT.snapshot(snapshot), FileCache(scene.folder / "cache")
    reader = MdsReader(scene.store, prefix, "web/train", manifest.files, cache)
    shards = TrainShards(reader, seq_len=manifest.seq_len)
    return shards.rows(np.arange(len(shards)))


def _held_out(scene: Scene, snapshot: str) -> list[str]:
    manifest = read_snapshot(scene.store, LAYOUT, snapshot)
    prefix, cache = LAYOUT.snapshot(snapshot), FileCache(scene.folder / "cache")
    reader = MdsReader(scene.store, prefix, "web/holdout", manifest.files, cache)
    return [row.document for row in read_holdout(reader, token_dtype=manifest.token_dtype)]


@pytest.mark.parametrize("near", [True, False])
def test_nothing_of_a_document_is_left_and_no_copy_comes_in_again(
    tmp_path: Path, near: bool
) -> None:
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path, near=near)
    texts = {f"planted-document-{n}": words(n) for n in range(24)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    trained, held = scene.split_of(first, "train")[3], scene.split_of(first, "holdout")[1]
    needles = scene.needles(texts, trained, held)
    assert len(files_with(tmp_path / "store", needles)) >= 2
    done = scene.forget(trained, held)
    assert files_with(tmp_path / "store", needles) == []
    assert files_with(tmp_path / "work", needles) == []
    for name in (trained, held):
        # Not as a part of another name.
        quoted = [f"{name}{end}".encode() for end in "\"'#, "]
        assert files_with(tmp_path / "store", quoted) == []
    assert (done.proof.places, done.proof.windows > 50) == ((), True)
    again = {"copy": texts[trained], "near": words(int(held.rpartition("-")[2]), changed=2)}
    scene.write("2.jsonl", again | {"new": words(99)})
    second = scene.refresh()
    if near:
        assert second.documents_dropped == {"duplicate": 1, "near_duplicate": 1}
    else:
        assert second.documents_dropped == {"duplicate": 1}
        needles = scene.needles(texts, trained)
    assert files_with(tmp_path / "store", needles) == []
    shown = _examples(scene, second.snapshot)
    assert shown["web/copy"] == "forgotten"
    assert shown.get("web/near") == ("forgotten" if near else None)


def _examples(scene: Scene, snapshot: str | None) -> dict[str, str]:
    """What a refresh shows of dropped documents."""
    assert snapshot is not None
    body = scene.store.get(f"{LAYOUT.snapshot(snapshot)}/examples.jsonl")
    rows = [json.loads(line) for line in body.splitlines()]
    return {row["document"]: row["excerpt"] for row in rows}


def test_everything_else_stays_where_it_was(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(24)})
    first = scene.refresh().snapshot
    assert first is not None
    before, table = read_snapshot(scene.store, LAYOUT, first), scene.table(first)
    rows, held = _train_rows(scene, first), _held_out(scene, first)
    gone = [row for row in table if row["split"] == "train"][2:5:2]
    gone += [row for row in table if row["split"] == "holdout"][:1]
    scene.forget(*(row["document"] for row in gone))
    after = read_snapshot(scene.store, LAYOUT, first)
    assert (after.id, after.identity) == (before.id, before.identity)
    assert after.content != before.content
    expected, seq_len = rows.copy(), before.seq_len
    for row in gone[:2]:
        for position in range(row["first_token"], row["first_token"] + row["tokens"]):
            expected[position // seq_len, position % seq_len] = before.start_id
            if position % seq_len == 0 and position:
                expected[position // seq_len - 1, seq_len] = before.start_id
    assert np.array_equal(_train_rows(scene, first), expected)
    assert _held_out(scene, first) == [name for name in held if name != gone[2]["document"]]
    (web,), (was,) = after.domains, before.domains
    assert web.train_samples == was.train_samples
    assert web.train_documents == was.train_documents - 2
    assert web.train_tokens == was.train_tokens - gone[0]["tokens"] - gone[1]["tokens"]
    assert web.holdout_documents == was.holdout_documents - 1
    assert after.documents_dropped == {"forgotten": 3}
    kept = [row for row in scene.table(first) if row["reason"] != "forgotten"]
    assert kept == [row for row in table if row not in gone]
    marked = [row for row in scene.table(first) if row["reason"] == "forgotten"]
    assert [row["content"] for row in marked] == sorted(
        (row["content"] for row in gone), key=[row["content"] for row in table].index
    )
    assert {(row["uri"], row["position"], row["address"], row["cluster"]) for row in marked} == {
        ("", 0, "", "")
    }
    # What is counted of the targets is what a fresh count gives.
    counts = np.frombuffer(
        scene.store.get(f"{LAYOUT.snapshot(first)}/{_named(after.files, 'unigram')}"), "<i8"
    )
    targets = np.bincount(expected[:, 1:].ravel(), minlength=after.vocab_size)
    assert counts.sum() <= web.train_tokens
    texts_only = np.delete(np.arange(after.vocab_size), [after.start_id, after.end_id])
    assert np.array_equal(counts[texts_only], targets[texts_only])
    assert counts[after.end_id] == web.train_documents
    assert find_garbage(scene.store, LAYOUT, grace_seconds=0, now=9e12) == []
    assert scene.head.suite is not None
    (item,) = read_suite(scene.store, LAYOUT, scene.head.suite).slices
    assert item.documents == web.holdout_documents


def _named(files: object, stem: str) -> str:
    (name,) = (file.name for file in files if file.name.startswith(stem))  # pyright: ignore
    return name


def test_a_second_takedown_follows_the_first(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(24)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    one, other, *_ = scene.split_of(first, "train")
    held, *_ = scene.split_of(first, "holdout")
    scene.forget(one)
    scene.forget(other, held)
    assert scene.forget(one).takedown.documents == ()
    assert first is not None
    assert len(read_snapshot(scene.store, LAYOUT, first).takedowns) == 2
    assert files_with(scene.folder / "store", scene.needles(texts, one, other, held)) == []


def test_a_domain_of_which_nothing_is_left_can_still_be_read(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(10)})
    first = scene.refresh().snapshot
    assert first is not None
    scene.forget(*(f"d{n}" for n in range(10)))
    manifest = read_snapshot(scene.store, LAYOUT, first)
    assert (manifest.domains[0].train_documents, manifest.domains[0].holdout_documents) == (0, 0)
    assert set(np.unique(_train_rows(scene, first))) == {manifest.start_id}
    assert scene.head.suite is not None
    assert read_suite(scene.store, LAYOUT, scene.head.suite).slices == ()
    scene.write("2.jsonl", {f"e{n}": words(100 + n) for n in range(10)})
    assert scene.refresh().documents_dropped == {}


def test_a_snapshot_that_a_killed_refresh_left_is_removed(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts)
    scene.refresh()
    left = f"{LAYOUT.snapshot('0123456789ab')}/web/train/shard.00000.mds"
    scene.store.put(left, texts["d3"].encode())
    scene.forget("d3")
    assert not scene.store.exists(left)


def test_items_that_quote_a_document_leave_the_suite_and_their_task_is_told(
    scene: Scene,
) -> None:
    texts = {f"d{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts)
    scene.refresh()
    items = [
        FrozenItem(item=Item(id=f"q{n}", cluster="c", kind="cloze", context=text, choices=("x",)))
        for n, text in enumerate((texts["d3"], words(77)))
    ]
    task = freeze_items(scene.store, LAYOUT, items, name="quiz", origin="configured")

    def with_task(head: Head | None) -> Head:
        assert head is not None
        assert head.suite is not None
        suite = suite_with_tasks(read_suite(scene.store, LAYOUT, head.suite), [task])
        publish_suite(scene.store, LAYOUT, suite)
        return next_head(head, action="suite", by="test", suite=suite.id)

    commit_change(scene.store, LAYOUT, with_task)
    done = scene.forget("d3")
    assert (done.takedown.tasks, done.proof.places) == (("quiz",), ())
    assert scene.head.suite is not None
    (kept,) = read_suite(scene.store, LAYOUT, scene.head.suite).tasks
    assert [item.item.id for item in read_items(scene.store, LAYOUT, kept)] == ["q1"]
    assert not scene.store.exists(f"{LAYOUT.suite_items}/{task.file.name}")


def test_what_an_unfinished_update_learns_from_is_not_changed_under_it(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)})
    first = scene.refresh().snapshot
    request = PlanRequest(
        recipe=Recipe(seq_len=SEQ_LEN, global_batch_samples=4, micro_batch_size=2),
        budget=BudgetConfig(tokens=8 * 4 * SEQ_LEN),
        replay=ReplayConfig(share=0.0),
        new_model=MODEL,
    )
    plan = make_plan(scene.store, LAYOUT, scene.head, request)
    assert isinstance(plan, UpdatePlan)
    save_plan(scene.store, LAYOUT, plan)
    with Lease.acquire(scene.store, LAYOUT, "test") as lease:
        lease.set_note(plan.id)
    before = scene.table(first)
    with pytest.raises(ValueError, match=f"update {plan.id} of demo is unfinished and trains on"):
        scene.forget("d3")
    assert scene.table(first) == before
    check_no_takedown(scene.store, LAYOUT)
    with Lease.acquire(scene.store, LAYOUT, "test") as lease:
        lease.finish()
    assert scene.forget("d3").proof.places == ()


# streaming.LocalDataset leaves its index file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_of_many_shards_those_that_have_it_are_rewritten_and_other_readers_find_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from streaming import LocalDataset

    monkeypatch.setattr("training.shard_writer.SHARD_BYTES", 3000)
    texts = {f"d{n}": words(n) for n in range(40)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    assert first is not None
    before = read_snapshot(scene.store, LAYOUT, first)
    # So long that it begins in one shard and ends in another, with the holdout's beside it.
    table = {row["document"].removeprefix("web/"): row for row in scene.table(first)}
    shards = [file for file in before.files if file.name.startswith("web/train/shard")]
    assert len(shards) > 5
    gone = scene.split_of(first, "train")[10]
    held = scene.split_of(first, "holdout")[0]
    done = scene.forget(gone, held)
    assert done.proof.places == ()
    after = read_snapshot(scene.store, LAYOUT, first)
    rows_a_shard = (shards[0].size - 200) // ((SEQ_LEN + 1) * 2)
    touched = table[gone]["tokens"] // SEQ_LEN // rows_a_shard + 2
    kept = {file.name for file in before.files} & {file.name for file in after.files}
    changed = [file for file in after.files if file.name.startswith("web/train/shard-")]
    assert 1 <= len(changed) <= touched
    assert len([name for name in kept if name.startswith("web/train/")]) == len(shards) - len(
        changed
    )
    ours = _train_rows(scene, first)
    for split in ("train", "holdout"):
        folder = scene.folder / "store" / LAYOUT.snapshot(first) / "web" / split
        dataset: Any = LocalDataset(local=str(folder))
        theirs = list(dataset)
        if split == "train":
            assert np.array_equal(np.stack([row["tokens"] for row in theirs]), ours)
        else:
            assert [row["document"] for row in theirs] == _held_out(scene, first)
    needles = scene.needles(texts, gone, held)
    assert files_with(scene.folder / "store", needles) == []
