"""The same definition in lm-evaluation-harness, where it is installed: the same requests."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.harness import read_harness

ROWS: list[dict[str, Any]] = [
    {
        "question": f"Where is number {n}?",
        "options": [f"in box {n}", f"ünder lid {n}", "here"],
        "answer": n % 3,
        "text": f"the {n} boxes and lids stand here",
        "good": f"Box {n} stands.",
        "bad": f"Box {n} stand.",
        "answers": [f"box {n}", f"{n}"],
    }
    for n in range(9)
]
CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "answer"}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "fields": {**CHOICE, "doc_to_text": "question"},
    "templates": {**CHOICE, "doc_to_text": "Q: {{question|upper}}\nA:", "target_delimiter": ""},
    "examples": {**CHOICE, "doc_to_text": "Q: {{question}}\nA:", "num_fewshot": 3,
                 "fewshot_split": "test", "description": "Find it.\n\n"},
    "first": {**CHOICE, "doc_to_text": "{{question}}", "num_fewshot": 2, "fewshot_split": "train",
              "fewshot_config": {"sampler": "first_n"}, "fewshot_delimiter": "\n--\n"},
    "drawn": {**CHOICE, "doc_to_text": "{{question}}", "num_fewshot": 2, "fewshot_split": "train"},
    "pairs": {"output_type": "multiple_choice", "doc_to_text": "", "doc_to_target": 0,
              "doc_to_choice": "{{[good, bad]}}"},
    "winogrande": {"output_type": "multiple_choice", "doc_to_text": "{{answer}}",
                   "doc_to_target": "{{text}}", "doc_to_choice": "{{[options[0], good, bad]}}"},
    "lambada": {"output_type": "loglikelihood",
                "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
                "doc_to_target": "{{' ' + text.split(' ')[-1]}}"},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "",
                "doc_to_target": "{{text}}"},
    "generation": {"output_type": "generate_until", "doc_to_text": "{{question}}",
                   "doc_to_target": "answers", "metric_list": [{"metric": "exact_match"}],
                   "num_fewshot": 1, "fewshot_split": "train",
                   "generation_kwargs": {"until": ["\n"], "max_gen_toks": 7}},
}  # fmt: skip


def definition_of(name: str, folder: Path) -> dict[str, Any]:
    for split, rows in (("test", ROWS), ("train", ROWS[::-1])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in ("test", "train")}
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        **DEFINITIONS[name],
    }


@pytest.mark.parametrize("name", DEFINITIONS)
def test_contexts_and_continuations_are_those_of_the_harness(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    peer = pytest.importorskip("lm_eval.api.task", exc_type=ImportError)
    definition = definition_of(name, tmp_path)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    ours = read_harness(TaskConfig(name="t", uri=str(tmp_path / "task.yaml"), kind="lm_eval"))
    task = peer.ConfigurableTask(config=dict(definition))
    task.set_fewshot_seed(seed=1234)
    for document, found in zip(task.test_docs(), ours, strict=True):
        before = task.fewshot_context(document, definition.get("num_fewshot", 0))
        made = task.construct_requests(document, before)
        asked = [request.args for request in (made if isinstance(made, list) else [made])]
        item = found.item
        if item.kind == "generation":
            assert asked[0][0] == item.context
            assert (asked[0][1]["until"], asked[0][1]["max_gen_toks"]) == (["\n"], 7)
            assert list(item.choices) == task.doc_to_target(document)
        elif item.kind == "perplexity":
            assert asked == [(item.choices[0],)]
        else:
            places = range(len(item.choices))
            assert asked == [(item.context_of(n), item.continuation_of(n)) for n in places]
