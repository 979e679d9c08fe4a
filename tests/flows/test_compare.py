"""``perennial check A B`` on directories and versions, by exit code, without any server."""

import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from storage.local_objects import LocalObjects
from tests.flows.test_review import newest
from tests.support.commands import Commands
from tests.support.lineages import TEXTS, hub_directory
from tests.support.tiny_lineage import TinyLineage
from training.items.item import Item
from training.items.score_items import score_items
from training.model_files import load_model
from training.tokenizer import load_tokenizer

NOWHERE = {
    "PREFECT_API_URL": "http://127.0.0.1:9/api",
    "PERENNIAL_MLFLOW_URI": "postgresql://127.0.0.1:9/none",
}
"""Servers that do not answer."""


@pytest.fixture
def alone(prefect_server: str, tmp_path: Path) -> Commands:
    """Commands on a home in which nothing ever happened, with no server within reach."""
    # The process that commands are forked from keeps the environment of its start, which is to name
    # the Prefect server of the other tests.
    return Commands(tmp_path / "home", NOWHERE)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model directory, beside ``texts/*.txt``."""
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return hub_directory(tmp_path / "base")


def spoiled(model: Path, directory: Path) -> Path:
    """A copy that is sure of what it has never learned."""
    shutil.copytree(model, directory)
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] *= 30
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def quiz_of(model: Path) -> list[str]:
    """Lines of a task of which ``model`` has all items right: right is what it holds likelier."""
    words = sorted({word for text in TEXTS for word in text.split()})
    drawn = random.Random(5)
    items = [
        Item(
            id=str(number),
            cluster=str(number),
            kind="multiple_choice",
            context=" ".join(drawn.sample(words, 4)),
            choices=tuple(f" {word}" for word in drawn.sample(words, 4)),
        )
        for number in range(120)
    ]
    scores = score_items(load_model(model), load_tokenizer(model), items, window_tokens=64)
    return [
        json.dumps(
            {
                "query": item.context,
                "choices": [choice.strip() for choice in item.choices],
                "gold": item.choices.index(score.answer),
            }
        )
        for item, score in zip(items, scores, strict=True)
    ]


def test_a_directory_may_replace_itself(base: Path, alone: Commands) -> None:
    ended = alone.run("check", base, base, "--text", base.parent / "texts", "--json")
    assert ended.code == 0, ended.err
    (row,) = ended.json["details"]["rows"]
    assert (row["domain"], row["documents"], row["change"]) == ("texts", len(TEXTS), 0.0)
    assert (row["lower_bound"], row["upper_bound"]) == (0.0, 0.0)


def test_the_exit_code_and_the_table_say_whether_it_may_be_replaced(
    base: Path, alone: Commands
) -> None:
    worse = spoiled(base, base.parent / "worse")
    text = ("--text", f"rivers={base.parent / 'texts'}")
    refused = alone.run("check", base, worse, *text)
    assert (refused.code, refused.out.count("rivers")) == (3, 2)
    assert "FAIL: B is worse than A by more than the margin on rivers" in refused.out
    better = alone.run("check", worse, base, *text)
    assert better.code == 0
    assert "B is better on rivers." in better.out
    allowed = alone.run("check", base, worse, *text, "--max-loss-nats", "1000")
    assert allowed.code == 0, allowed.out


def test_questions_alone_decide_when_they_tell_the_models_apart(
    base: Path, alone: Commands
) -> None:
    questions = base.parent / "questions.jsonl"
    # Whatever the model itself holds likelier counts as right: it has all of them right.
    questions.write_text("\n".join(quiz_of(base)))
    same = alone.run("check", base, base, "--task", f"multiple_choice:{questions}", "--json")
    assert same.code == 0, same.err
    (row,) = same.json["details"]["task_rows"]
    assert (row["task"], row["items"], row["champion_accuracy"]) == ("questions", 120, 1.0)
    assert (row["difference"], row["negative_flips"], row["passed"]) == (0.0, 0, True)
    other = hub_directory(base.parent / "other", seed=4)
    refused = alone.run("check", base, other, "--task", f"multiple_choice:{questions}")
    assert refused.code == 3, refused.out
    assert "Task questions: accuracy is" in refused.out


def test_files_of_one_name_are_told_apart_and_none_is_asked_twice(
    base: Path, alone: Commands
) -> None:
    given: list[str] = []
    for folder in ("one", "other"):
        file = base.parent / folder / "quiz.jsonl"
        file.parent.mkdir()
        file.write_text('{"context": "river 1 runs", "continuation": "past"}')
        given += ["--task", f"cloze:{file}"]
    ended = alone.run("check", base, base, *given, *given[:2], "--json")
    assert ended.code == 0, ended.err
    assert [row["task"] for row in ended.json["details"]["task_rows"]] == ["quiz", "quiz-2"]


def test_a_model_that_computes_no_numbers_is_refused_on_questions_that_guard_nothing(
    base: Path, alone: Commands
) -> None:
    broken = base.parent / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    file = base.parent / "quiz.jsonl"
    file.write_text('{"context": "river 1 runs", "continuation": "past"}')
    ended = alone.run("check", base, broken, "--task", f"cloze:{file}", "--json")
    assert ended.code == 3, ended.err
    assert "logits are not finite numbers" in ended.json["message"]


def test_a_margin_that_json_cannot_record_is_refused(base: Path, alone: Commands) -> None:
    ended = alone.run("check", base, base, "--text", "texts", "--max-loss-nats", "inf")
    assert ended.code == 2
    assert "--max-loss-nats must be a finite number" in ended.err


def test_one_document_does_not_decide(base: Path, alone: Commands) -> None:
    worse = spoiled(base, base.parent / "worse")
    ended = alone.run("check", base, worse, "--text", base.parent / "texts" / "1.txt", "--json")
    assert (ended.code, ended.json["kind"]) == (4, "AMBIGUOUS")


def test_json_says_everything(base: Path, alone: Commands) -> None:
    ended = alone.run("check", base, base, "--text", base.parent / "texts", "--json")
    assert {"kind", "message", "lineage", "details", "warnings"} <= set(ended.json)
    assert set(ended.json["details"]) == {
        "verdict", "reason", "a", "b", "unit", "max_loss_nats", "alpha", "resamples", "rows",
        "task_rows", "health",
    }  # fmt: skip
    assert set(ended.json["details"]["rows"][0]) == {
        "domain", "documents", "clusters", "text_bytes", "a_loss", "b_loss", "a_bits_per_byte",
        "b_bits_per_byte", "change", "lower_bound", "upper_bound", "margin",
        "smallest_detectable_effect", "p_worse", "meaning",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("./nowhere", "base"), 1, "there is no model directory at nowhere"),
        (("base", "texts"), 1, "texts has no config.json"),
        (("base", "7"), 1, "7 is no directory, and without a lineage there are no versions"),
        (("base", "base"), 1, "there is nothing to judge on"),
        (("base", "base", "--task", "quiz:q.jsonl"), 1, "expected KIND:PATH with one of the kinds"),
        (("base", "base", "--task", "cloze:q.jsonl"), 1, "q.jsonl"),
        (("base", "base", "--task", "perplexity:t.jsonl"), 1, "give them by --text"),
        (("base", "base", "--text", "none.txt"), 1, "found no text in none.txt"),
        (("base", "base", "--text", "1=texts", "--text", "texts/1.txt"), 1, "the domain 1 twice"),
        (("base", "base", "--text", ""), 1, "--text '' names no file"),
        (("base", "base", "--text", "german="), 1, "--text 'german=' names no file"),
        (("base", "base", "--task", "cloze:"), 1, "expected KIND:PATH"),
        (("base", "base", "--task", "cloze:s3://x/y.jsonl"), 1, "is not local"),
        (("base", "base", "nowhere.yaml"), 2, "no lineage file at nowhere.yaml"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    arguments: tuple[str, ...], code: int, message: str, base: Path, alone: Commands
) -> None:
    (base.parent / "t.jsonl").write_text('{"text": "A river."}')
    ended = alone.run("check", *arguments, prepare=partial(os.chdir, base.parent))
    assert ended.code == code, ended.err
    assert message in ended.error
    assert "Traceback" not in ended.err


def test_a_version_and_a_changed_copy_are_compared_on_the_suite(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    commands = Commands(perennial.home, NOWHERE)
    store = LocalObjects(perennial.home / "store")
    config = store.local_path(f"lineages/tiny/models/{newest(perennial).champion}/config.json")
    assert config is not None
    worse = spoiled(config.parent, tmp_path / "worse")
    before = {info.key: info.modified_at for info in store.list("lineages")}

    same = commands.run("check", "1", "1", "--lineage", lineage.file, "--json")
    assert same.code == 0, same.err
    assert {row["change"] for row in same.json["details"]["rows"]} == {0.0}
    assert same.json["lineage"] == "tiny"
    refused = commands.run("check", "1", worse, lineage.file, "--json")
    assert refused.code == 3, refused.err
    assert [row["domain"] for row in refused.json["details"]["rows"]] == ["prose"]
    assert refused.json["details"]["unit"] == "nats per token"
    (tmp_path / "1").mkdir()
    beside = commands.run("check", "1", "1", lineage.file, prepare=partial(os.chdir, tmp_path))
    assert beside.code == 0, beside.err
    unknown = commands.run("check", "1", "9", lineage.file)
    assert unknown.code == 1
    assert "lineage tiny has no version '9'" in unknown.error
    assert {info.key: info.modified_at for info in store.list("lineages")} == before


def test_a_model_with_other_tokens_is_compared_on_the_suite_by_the_byte(
    lineage: TinyLineage, perennial: Commands, base: Path
) -> None:
    commands = Commands(perennial.home, NOWHERE)
    ended = commands.run("check", "1", base, "--lineage", lineage.file, "--json")
    assert ended.code == 3, ended.err
    assert ended.json["details"]["unit"] == "nats per byte"
    assert json.dumps(ended.json["details"])  # no number that JSON does not have


def test_rules_of_one_version_alone_are_its_lineages(lineage: TinyLineage, alone: Commands) -> None:
    ended = alone.run("check", "1", lineage.file, "--max-loss-nats", "1")
    assert ended.code == 2
    assert "alone is judged by its lineage's own rules" in ended.err
