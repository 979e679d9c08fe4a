"""``perennial graft`` by command, without any server."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.flows.test_compare import NOWHERE
from tests.support.commands import Commands
from tests.support.lineages import TEXTS, hub_directory


@pytest.fixture
def alone(prefect_server: str, tmp_path: Path) -> Commands:
    return Commands(tmp_path / "home", NOWHERE)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Base, instruct and new base, beside ``texts/*.txt``."""
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    base = hub_directory(tmp_path / "base")
    return [base, *(changed(base, tmp_path / f"changed-{seed}", seed) for seed in (1, 2))]


def changed(base: Path, out: Path, seed: int) -> Path:
    shutil.copytree(base, out)
    noise = torch.Generator().manual_seed(seed)
    weights = {
        name: tensor + 0.001 * torch.randn(tensor.shape, generator=noise)
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_a_graft_is_made_judged_and_says_what_it_is_made_of(
    models: list[Path], alone: Commands, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = alone.run("graft", *models, out, "--text", tmp_path / "texts", "--json")
    assert ended.code in (0, 4), ended.err
    made = ended.json["details"]["graft"]
    assert [change["layer"] for change in made["layers"]] == [None, 0, 1]
    assert ended.json["details"]["check"]["b"] == str(out)
    assert json.loads((out / "graft.json").read_text())["new_base"] == made["new_base"]
    told = alone.run("graft", *models, out)
    assert told.code == 0, told.err
    assert "layer 0: " in told.out
    assert f"perennial check {models[1]} {out} --text" in told.out


def test_what_cannot_be_grafted_is_refused_in_a_sentence(
    models: list[Path], alone: Commands, tmp_path: Path
) -> None:
    base, instruct, new_base = models
    (tmp_path / "mine").mkdir()
    refused = alone.run("graft", base, instruct, new_base, tmp_path / "mine")
    assert (refused.code, "exists and is no graft" in refused.error) == (1, True)
    twice = alone.run("graft", base, base, new_base, tmp_path / "out")
    assert "the same twice" in twice.error
    stranger = hub_directory(tmp_path / "stranger", seed=99)
    unrelated = alone.run("graft", base, instruct, stranger, tmp_path / "out")
    assert "must have a common ancestor" in unrelated.error
    assert not (tmp_path / "out").exists()
