"""Task items in whole updates: frozen before anything is trained, and shown in the verdict."""

import json
import random
from pathlib import Path
from typing import Any

from storage.head import Head, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import load
from storage.suite import read_suite
from tasks.judge.verdict import VerdictReport
from tasks.reporting.page import verdict_key
from tests.support.commands import Commands
from tests.support.tiny_lineage import TinyLineage, prose

LAYOUT = Layout("tiny")


def head_of(commands: Commands) -> Head:
    head = read_head(LocalObjects(commands.home / "store"), LAYOUT)
    assert head is not None
    return head


def write_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": path.stem, "uri": path.name}


def test_every_task_is_in_the_verdict_with_what_guards_nothing_and_why(
    lineage: TinyLineage, perennial: Commands
) -> None:
    rng = random.Random("tasks")
    pairs = [
        # The words of a sentence in their order and in another: what knows the grammar can tell.
        {"sentence_good": good, "sentence_bad": " ".join(rng.sample(good.split(), 8))}
        for good in (prose(rng).split(". ")[0] for _ in range(2000))
        if len(good.split()) >= 8
    ]
    guesses = [
        {"query": f"{prose(rng)} Which?", "choices": ["a", "b"], "gold": rng.randrange(2)}
        for _ in range(50)
    ]
    texts = [{"text": prose(rng)} for _ in range(60)]
    tasks = [
        {**write_rows(lineage.folder / "grammar.jsonl", pairs), "kind": "minimal_pairs"},
        {**write_rows(lineage.folder / "guesses.jsonl", guesses), "kind": "multiple_choice"},
        {**write_rows(lineage.folder / "texts.jsonl", texts), "kind": "perplexity"},
    ]
    lineage.add("ledger")
    lineage.write(
        tasks=tasks,
        replay={"share": 0.5},
        check={"max_loss_nats": 1, "max_cumulative_loss_nats": 1},
    )
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    head, store = head_of(perennial), LocalObjects(perennial.home / "store")
    assert head.suite is not None
    suite = read_suite(store, LAYOUT, head.suite)
    assert {"grammar", "guesses", "texts"} <= {task.name for task in suite.tasks}
    report = load(store, verdict_key(LAYOUT, head.versions[-1].update), VerdictReport)
    assert report.health.problem == ""
    text = next(row for row in report.rows if row.domain == "task texts")
    assert (text.role, text.test, text.documents) == ("old", "loss", 60)
    tasks = {row.task: row for row in report.task_rows}
    assert (tasks["grammar"].margin, tasks["grammar"].why_unguarded) == (0.05, "")
    assert tasks["guesses"].margin is None
    assert tasks["guesses"].why_unguarded.startswith("at chance level: the champion has ")
    assert report.numbers is not None
    assert report.numbers.copies is None or not report.numbers.copies.warning


def test_a_definition_that_cannot_be_read_ends_the_update_before_it_trains(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    row = {"query": "q", "choices": ["a", "b"], "gold": 7}
    told = write_rows(lineage.folder / "quiz.jsonl", [row])
    lineage.write(tasks=[{**told, "kind": "multiple_choice"}])
    before = head_of(perennial)
    ended = perennial.run("update", lineage.file)
    assert ended.code == 1
    assert "quiz.jsonl:1: gold: expected an index from 0 to 1, found 7" in ended.err
    assert "Traceback" not in ended.err
    head = head_of(perennial)
    assert head.versions == before.versions
    assert head.suite is not None
    suite = read_suite(LocalObjects(perennial.home / "store"), LAYOUT, head.suite)
    assert "quiz" not in {task.name for task in suite.tasks}
