"""What the manual says, held against the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from storage.local_objects import LocalObjects
from tests.support.deployment import ROOT, check_perennial, unknown_variables
from tests.support.manual import MANUAL, blocks
from tests.training.tiny_run import tiny_plan
from training.checkpoint.index import read_manifest
from training.launch import run_training

TEXT = MANUAL.read_text(encoding="utf-8")
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S))


def commands() -> list[str]:
    """Every line of ``perennial`` in a block, every such command in a sentence or a table."""
    lines = [line.split("#")[0].strip() for block in blocks() for line in block.splitlines()]
    # "..." stands for what the reader fills in.
    inline = [words.replace("...", "TEXT") for words in INLINE]
    return sorted({line for line in lines + inline if line.startswith("perennial ")})


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_manual_exists(command: str) -> None:
    words = command.split()[1:]
    if words[0] not in ("rollback", "promote", "reject", "unhold") or len(words) > 1:
        check_perennial(words)


def test_the_manual_tells_of_every_command() -> None:
    told = {command.split()[1] for command in commands()}
    assert {"init", "plan", "update", "check", "status", "history", "up", "down", "serve"} <= told
    assert {"promote", "reject", "rollback", "gc"} <= told
    assert len(commands()) > 15


def test_every_variable_of_the_manual_is_read_by_something() -> None:
    names = {
        name
        for words in INLINE
        for name in re.findall(r"\b(?:PERENNIAL|PREFECT|MLFLOW|RAY|AWS)_[A-Z0-9_]+\b", words)
    }
    # compose.yaml's own.
    names -= {"RAY_WORKER_CPUS", "RAY_WORKER_MEMORY"}
    assert len(names) > 8
    assert unknown_variables(names) == []


def test_every_file_that_the_manual_names_is_there() -> None:
    paths = {
        path
        for words in INLINE
        for path in re.findall(r"(?:infra|tests|docs|training|tasks|storage)/[\w./-]*\w", words)
    }
    paths |= set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
    yours = {"infra/.env", "infra/secrets"}
    missing = [
        path
        for path in sorted(paths - yours)
        if not (ROOT / path).exists() and not (MANUAL.parent / path).exists()
    ]
    assert not missing
    assert len(paths) > 10


def said_by_the_code() -> Iterator[str]:
    """Every string of the packages; what a format string fills in is left out."""
    for package in ("flows", "tasks", "training", "storage", "infra"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_the_sentences_of_a_bad_day_are_those_of_the_code() -> None:
    bad_day = TEXT.split("## Bad day")[1].split("\n## ")[0]
    seen = [line.split("|")[1] for line in bad_day.splitlines() if line.startswith("| ")]
    quoted = [words for cell in seen for words in re.findall(r'"([^"]+)"', cell)]
    parts = [part.strip() for words in quoted for part in words.split("...") if part.strip()]
    assert len(parts) > 20
    said = "\n".join(said_by_the_code())
    assert [part for part in parts if part not in said] == []


def bytes_in(store: LocalObjects, key: str) -> int:
    path = store.local_path(key)
    assert path is not None
    return sum(tensor.nbytes for name, tensor in load_file(path).items() if "step" not in name)


def test_a_checkpoint_is_as_large_as_the_manual_says(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=1)
    final = run_training(
        plan, store_uri=uri, num_workers=0, work_dir=tmp_path / "work", threads_per_worker=1
    )
    store = LocalObjects(tmp_path / "store")
    manifest = read_manifest(store, final)
    weights = bytes_in(store, f"{final}/{manifest.weights.name}")
    moments = bytes_in(store, f"{final}/{manifest.moments.name}")
    parameters = weights // 4
    assert (weights + moments) / parameters == 12
    assert "| checkpoint | 12 bytes a parameter" in TEXT
    assert "| published model, and its copy in scratch space | 4 bytes a parameter" in TEXT
