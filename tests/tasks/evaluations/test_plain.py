import json
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluations.config import TaskConfig, TaskKind
from tasks.evaluations.frozen import chosen
from tasks.evaluations.plain import read_plain
from training.items.item import Item


def task(path: Path, kind: TaskKind, rows: list[Any], **more: Any) -> TaskConfig:
    file = path / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TaskConfig(name="quiz", uri=str(file), kind=kind, **more)


def only_item(config: TaskConfig) -> Item:
    (found,) = read_plain(config)
    return found.item


def test_a_multiple_choice_line_becomes_an_item_with_its_gold(tmp_path: Path) -> None:
    row = {"query": "Q: 2 + 2?\nA:", "choices": ["3", "4"], "gold": 1, "id": "sum", "cluster": "c"}
    item = only_item(task(tmp_path, "multiple_choice", [row]))
    assert (item.id, item.cluster, item.kind) == ("sum", "c", "multiple_choice")
    assert item.context_of(1) + item.continuation_of(1) == "Q: 2 + 2?\nA: 4"


@pytest.mark.parametrize(
    ("context", "continuation", "joined"),
    [
        ("He saw the", "sea", "He saw the sea"),
        ("He saw the ", "sea", "He saw the sea"),
        ("He saw the", " sea", "He saw the sea"),
        ("He saw:\n", "sea", "He saw:\nsea"),
    ],
)
def test_context_and_continuation_are_joined_by_one_space_at_most(
    tmp_path: Path, context: str, continuation: str, joined: str
) -> None:
    item = only_item(task(tmp_path, "cloze", [{"context": context, "continuation": continuation}]))
    assert item.context + item.continuation_of(0) == joined


def test_pairs_texts_and_questions_become_items_of_their_kinds(tmp_path: Path) -> None:
    pair = only_item(task(tmp_path, "minimal_pairs", [{"sentence_good": "a", "sentence_bad": "b"}]))
    assert (pair.kind, pair.choices, pair.gold) == ("minimal_pair", ("a", "b"), 0)
    text = only_item(task(tmp_path, "perplexity", [{"text": "a river"}]))
    assert (text.kind, text.choices) == ("perplexity", ("a river",))
    asked = only_item(
        task(tmp_path, "generation", [{"prompt": "2 + 2 =", "answer": ["4", "four"]}])
    )
    assert (asked.kind, asked.choices) == ("generation", ("4", "four"))


def test_a_field_may_name_the_cluster_and_ids_are_those_of_the_content(tmp_path: Path) -> None:
    rows = [
        {"sentence_good": f"good {n}", "sentence_bad": f"bad {n}", "uid": f"paradigm {n % 2}"}
        for n in range(4)
    ]
    read = read_plain(task(tmp_path, "minimal_pairs", rows, cluster_field="uid"))
    assert [found.item.cluster for found in read] == ["paradigm 0", "paradigm 1"] * 2
    again = read_plain(task(tmp_path, "minimal_pairs", rows[::-1], cluster_field="uid"))
    assert [found.item.id for found in again][::-1] == [found.item.id for found in read]


def test_the_choice_of_items_depends_on_their_content_alone(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}"} for n in range(50)]
    read = read_plain(task(tmp_path, "perplexity", rows))
    taken = chosen(read, 20)
    assert len(taken) == 20
    assert {found.item.id for found in chosen(read[::-1], 20)} == {f.item.id for f in taken}
    assert set(chosen(read, 10)) < set(taken)
    assert chosen([*read, *read], 100) == tuple(read)


def test_one_id_for_two_items_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "one", "id": "x"}, {"text": "two", "id": "x"}]
    with pytest.raises(ValueError, match="the id 'x' stands for two different items; give every"):
        chosen(read_plain(task(tmp_path, "perplexity", rows)), 10)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("cloze", {"context": "a"}, r"cloze.jsonl:2: continuation: expected a text, found missing"),
        ("perplexity", {"text": 5}, r"text: expected a text, found 5; correct the line, or leave"),
        (
            "multiple_choice",
            {"query": "q", "choices": ["a", "b"], "gold": 2},
            r"gold: expected an index from 0 to 1, found 2; write which",
        ),
        (
            "multiple_choice",
            {"query": "q", "choices": ["a"], "gold": 0},
            r"choices: expected a list of at least 2 texts, none empty, found \['a'\]",
        ),
        (
            "minimal_pairs",
            {"sentence_good": "a", "sentence_bad": "a"},
            "sentence_bad: is the same as sentence_good",
        ),
        (
            "generation",
            {"prompt": "q", "answer": []},
            "answer: expected a list of at least 1 texts",
        ),
        ("perplexity", {"text": "a \ud83d"}, r"perplexity.jsonl:2: holds half of a surrogate pair"),
        ("perplexity", {"text": "a", "id": "\udc00"}, "perplexity.jsonl:2: holds half"),
        ("perplexity", [1], r"perplexity.jsonl:2: expected a JSON object, found '1'"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_field_and_the_remedy(
    tmp_path: Path, kind: TaskKind, row: Any, message: str
) -> None:
    good: dict[str, Any] = {
        "query": "q", "choices": ["a", "b"], "gold": 0, "context": "c", "continuation": "d",
        "sentence_good": "e", "sentence_bad": "f", "text": "g", "prompt": "h", "answer": "i",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        read_plain(task(tmp_path, kind, [good, row]))


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert only_item(task(tmp_path, "perplexity", [{"text": "a \U0001f600"}])).choices == ("a 😀",)


def test_a_file_that_is_missing_empty_or_no_json_is_named(tmp_path: Path) -> None:
    config = task(tmp_path, "perplexity", [])
    with pytest.raises(ValueError, match=r"perplexity.jsonl: holds no JSON object"):
        read_plain(config)
    Path(config.uri).write_text('{"text": "a"}\n{oops\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"perplexity.jsonl:2: is not JSON"):
        read_plain(config)
    Path(config.uri).unlink()
    with pytest.raises(ValueError, match="no such file; a task names a local file"):
        read_plain(config)


def test_a_task_is_local(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'https://x/y' of task 'quiz' is not local"):
        TaskConfig(name="quiz", uri="https://x/y", kind="cloze")
