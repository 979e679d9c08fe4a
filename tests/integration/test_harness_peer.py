"""The same definition in lm-evaluation-harness, in an environment of its own: the same requests."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.harness import read_harness

pytestmark = pytest.mark.integration

HARNESS_PYTHON = Path(__file__).parents[2] / ".venv/share/lm-eval/bin/python"
"""Of the environment that ``install.sh`` makes: the harness wants other versions than we do."""
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


@pytest.fixture(scope="module")
def asked_of_the_harness(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By definition, what lm-evaluation-harness asks a model: the arguments of its requests."""
    folder = tmp_path_factory.mktemp("harness")
    definitions = [definition_of(name, folder) for name in DEFINITIONS]
    ended = subprocess.run(
        [HARNESS_PYTHON, Path(__file__).parent / "servers" / "harness.py"],
        input=json.dumps(definitions),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_contexts_and_continuations_are_those_of_the_harness(
    name: str, tmp_path: Path, asked_of_the_harness: dict[str, list[Any]]
) -> None:
    definition = definition_of(name, tmp_path)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    ours = read_harness(TaskConfig(name="t", uri=str(tmp_path / "task.yaml"), kind="lm_eval"))
    for asked, found in zip(asked_of_the_harness[name], ours, strict=True):
        item, requests = found.item, asked["requests"]
        if item.kind == "generation":
            assert requests[0][0] == item.context
            assert (requests[0][1]["until"], requests[0][1]["max_gen_toks"]) == (["\n"], 7)
            assert list(item.choices) == asked["target"]
        elif item.kind == "perplexity":
            assert requests == [[item.choices[0]]]
        else:
            places = range(len(item.choices))
            assert requests == [[item.context_of(n), item.continuation_of(n)] for n in places]
