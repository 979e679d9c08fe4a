import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptError, HeadMovedError
from storage.gc import find_garbage
from storage.head import Head, commit_change, next_head, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.suite import SuiteManifest, publish_suite, read_suite
from tasks.evaluations.config import MintedConfig, TaskConfig
from tasks.evaluations.freeze import freeze_tasks
from tasks.evaluations.frozen import read_items
from tasks.evaluations.trained_on import find_trained_on
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from training.tokenizer import fetch_tokenizer

LAYOUT = Layout("demo")
NOTHING = MintedConfig(cloze_items=0, canary_items=0)
SYLLABLES = ["ka", "lo", "mi", "ne", "pu", "ro", "sa", "ti", "vu", "we", "bri", "cho", "dra", "fle"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]


def story(number: int) -> str:
    rng = random.Random(number)
    filler = " ".join(rng.choice(WORDS) for _ in range(40))
    return f"they called it Number{number} then. {filler} and again Number{number} came."


class Place:
    """A lineage with one refresh, and a file of questions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalObjects(folder / "store")
        self.quiz = folder / "quiz.jsonl"
        self.ask(range(20))
        self.refresh(range(60))

    def ask(self, numbers: range) -> None:
        rows = [{"context": f"after {n} comes number", "continuation": f"{n + 1}"} for n in numbers]
        self.quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def refresh(self, numbers: range, **changes: Any) -> str:
        data = self.folder / "data" / f"{numbers.start}.jsonl"
        data.parent.mkdir(exist_ok=True)
        rows = ({"text": story(n), "id": f"d{n}"} for n in numbers)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        source = SourceConfig(
            name="web", uri=str(data.parent), domain="web", fields=FieldNames(id="id")
        )
        request = RefreshRequest(
            sources=(source,),
            tokenizer=TrainedTokenizer(600),
            seq_len=32,
            holdout=HoldoutConfig(min_clusters=10),
            **changes,
        )
        (self.folder / "work").mkdir(exist_ok=True)
        done = refresh(self.store, LAYOUT, request, by="test", work_dir=self.folder / "work")
        assert done.snapshot is not None, done.reason
        return done.snapshot

    def freeze(self, *tasks: TaskConfig, minted: MintedConfig = NOTHING) -> SuiteManifest:
        head = freeze_tasks(
            self.store, LAYOUT, tasks, minted, by="test", work_dir=self.folder / "work"
        )
        assert head is not None
        assert head.suite is not None
        return read_suite(self.store, LAYOUT, head.suite)

    def task(self, **changes: Any) -> TaskConfig:
        return replace(TaskConfig(name="quiz", uri=str(self.quiz), kind="cloze"), **changes)

    @property
    def head(self) -> Head:
        head = read_head(self.store, LAYOUT)
        assert head is not None
        return head


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_items_are_frozen_once_and_nothing_changes_until_they_do(place: Place) -> None:
    before = place.head.number
    suite = place.freeze(place.task())
    (task,) = suite.tasks
    assert (task.name, task.kind, task.items, task.clusters) == ("quiz", "cloze", 20, 20)
    assert place.head.number == before + 1
    assert (place.head.action, place.head.reason) == ("suite", "task items: new quiz")
    assert len(read_items(place.store, LAYOUT, task)) == 20

    assert place.freeze(place.task()) == suite
    assert place.head.number == before + 1

    place.ask(range(21))
    changed = place.freeze(place.task())
    assert changed.id != suite.id
    assert place.head.reason == "task items: changed quiz"
    assert len(read_items(place.store, LAYOUT, task)) == 20
    assert place.freeze().tasks == ()
    assert place.head.reason == "task items: without quiz"


def test_the_same_items_in_another_file_and_order_are_the_same_task(place: Place) -> None:
    suite = place.freeze(place.task())
    copy = place.folder / "copy.jsonl"
    copy.write_text(place.quiz.read_text("utf-8"), "utf-8")
    assert place.freeze(place.task(uri=f"file://{copy}")) == suite
    assert place.freeze(place.task(max_items=5)).tasks[0].items == 5


def test_a_definition_that_cannot_be_read_changes_nothing(place: Place) -> None:
    suite = place.freeze(place.task())
    number = place.head.number
    place.quiz.write_text('{"context": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"quiz.jsonl:1: continuation: expected a text, found mis"):
        place.freeze(place.task())
    assert place.head.number == number
    assert place.head.suite == suite.id


def test_cloze_items_are_made_of_held_out_documents_and_stay_for_the_newest_snapshots(
    place: Place,
) -> None:
    minted = MintedConfig(cloze_items=8, cloze_snapshots=2, canary_items=0)
    first = place.head.snapshots[0].id
    (task,) = place.freeze(minted=minted).tasks
    assert (task.name, task.origin, task.snapshot) == (f"cloze@{first}", "cloze", first)
    items = read_items(place.store, LAYOUT, task)
    assert 1 <= len(items) <= 8
    for frozen in items:
        assert frozen.item.choices[0].startswith("Number")
        assert frozen.item.choices[0] in frozen.item.context
    assert place.freeze(minted=minted).tasks == (task,)
    more = [place.refresh(range(100 * n, 100 * n + 40)) for n in (1, 2)]
    suite = place.freeze(minted=minted)
    assert {task.snapshot for task in suite.tasks} == set(more)


def test_canaries_are_made_once_for_the_lineages_tokenizer(place: Place) -> None:
    minted = MintedConfig(cloze_items=0, canary_items=10)
    suite = place.freeze(minted=minted)
    assert [task.name for task in suite.tasks] == [
        "canary-copy-1", "canary-induction-1", "canary-ordering-1",
    ]  # fmt: skip
    place.refresh(range(100, 140))
    assert place.freeze(minted=minted).tasks == suite.tasks
    larger = place.freeze(minted=replace(minted, canary_items=12))
    assert {task.items for task in larger.tasks} == {12}
    assert place.freeze(minted=NOTHING).tasks == ()


def test_a_suite_that_a_refresh_moved_meanwhile_is_not_overwritten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved_meanwhile(*arguments: Any) -> None:
        publish_suite(*arguments)
        commit_change(
            place.store,
            LAYOUT,
            lambda head: next_head(head, action="refresh", by="other", suite="0" * 12),
        )

    monkeypatch.setattr("tasks.evaluations.freeze.publish_suite", moved_meanwhile)
    with pytest.raises(HeadMovedError, match="other committed head 3 of demo with another suite"):
        place.freeze(place.task())


def test_items_of_old_suites_are_no_garbage_and_an_altered_one_is_found(place: Place) -> None:
    (task,) = place.freeze(place.task()).tasks
    place.freeze()
    key = f"{LAYOUT.suite_items}/{task.file.name}"
    found = find_garbage(place.store, LAYOUT, grace_seconds=0, now=9e12)
    assert key not in [info.key for info in found]
    place.store.put(key, place.store.get(key).replace(b"after 1 ", b"after 7 "))
    with pytest.raises(CorruptError, match="was altered"):
        read_items(place.store, LAYOUT, task)


def test_items_that_stand_in_the_training_text_are_found_once_and_remembered(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"context": story(n).rsplit(" ", 1)[0], "continuation": "came.", "id": f"q{n}"}
        for n in (*range(60), *range(900, 910))
    ]
    place.quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (task,) = place.freeze(place.task()).tasks
    head = place.head
    assert head.tokenizer is not None
    work = place.folder / "work"
    tokenizer = fetch_tokenizer(place.store, head.tokenizer, work / "tokenizer")

    def look() -> set[str]:
        snapshots = [head.snapshots[0].id]
        found = find_trained_on(place.store, LAYOUT, [task], snapshots, tokenizer, work)
        return set(found["quiz"][snapshots[0]])

    held = place.freeze(place.task()).slices[0]
    trained = look()
    # All but the held-out documents, which were not trained on, and those that are in no source.
    assert len(trained) == 60 - held.documents
    assert not trained & {f"q{n}" for n in range(900, 910)}

    def not_again(*_: Any) -> None:
        raise AssertionError("the training text is read once")

    monkeypatch.setattr("tasks.evaluations.trained_on._open_shards", not_again)
    assert look() == trained
