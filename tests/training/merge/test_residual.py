import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.lineages import hub_directory
from training.merge.merge import merge
from training.merge.parents import Parent, open_parents
from training.merge.residual import changes_by_layer, graft
from training.merge.rules import task_arithmetic


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def weights_of(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def changed(directory: Path, out: Path, seed: int, *, dtype: torch.dtype = torch.float32) -> Path:
    shutil.copytree(directory, out)
    noise = torch.Generator().manual_seed(seed)
    weights = {
        name: (tensor + 0.01 * torch.randn(tensor.shape, generator=noise)).to(dtype)
        for name, tensor in weights_of(directory).items()
    }
    save_file(weights, out / "model.safetensors")
    return out


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    base = hub_directory(tmp_path / "base", seed=1)
    return {
        "base": base,
        "instruct": changed(base, tmp_path / "instruct", 2),
        "new base": changed(base, tmp_path / "new-base", 3),
    }


def opened(models: dict[str, Path]) -> tuple[Parent, Parent, Parent]:
    base, instruct, new_base = open_parents(models)
    return base, instruct, new_base


def test_what_was_taught_is_added_to_what_was_learned(
    models: dict[str, Path], tmp_path: Path
) -> None:
    graft(*opened(models), tmp_path / "out", scale=0.7)
    base, instruct, new = (weights_of(path) for path in models.values())
    for name, found in weights_of(tmp_path / "out").items():
        expected = new[name].double() + 0.7 * (instruct[name].double() - base[name].double())
        # One rounding to float32 of numbers below 2.
        assert (found.double() - expected).abs().max() <= 1.2e-7, name


def test_taking_it_off_again_gives_the_new_base_back_to_a_rounding(
    models: dict[str, Path], tmp_path: Path
) -> None:
    base, instruct, new_base = opened(models)
    graft(base, instruct, new_base, tmp_path / "out")
    (out,) = open_parents({"out": tmp_path / "out"})
    merge([out, base, instruct], task_arithmetic([-1.0]), tmp_path / "back")
    new, back = weights_of(models["new base"]), weights_of(tmp_path / "back")
    for name, tensor in new.items():
        # Half a unit in the last place of the grafted number, and half of the number itself.
        size = torch.maximum(tensor.abs(), weights_of(tmp_path / "out")[name].abs())
        assert ((back[name] - tensor).abs() <= size * 2**-23).all(), name


def test_the_instruct_models_own_files_and_the_new_bases_precision_are_kept(
    models: dict[str, Path], tmp_path: Path
) -> None:
    (models["instruct"] / "chat_template.jinja").write_text("{{ messages }}")
    half = {name: tensor.bfloat16() for name, tensor in weights_of(models["instruct"]).items()}
    save_file(half, models["instruct"] / "model.safetensors")
    graft(*opened(models), tmp_path / "out")
    assert (tmp_path / "out/chat_template.jinja").read_text() == "{{ messages }}"
    assert {tensor.dtype for tensor in weights_of(tmp_path / "out").values()} == {torch.float32}


def test_unrelated_changes_have_no_cosine_and_equal_ones_have_one(
    models: dict[str, Path], tmp_path: Path
) -> None:
    base, instruct, new_base = opened(models)
    unrelated = changes_by_layer(base, instruct, new_base)
    assert [change.layer for change in unrelated] == [None, 0, 1]
    for change in unrelated:
        assert change.cosine is not None
        # Five standard deviations of the cosine of two random vectors of the smallest layer.
        assert abs(change.cosine) < 5 / math.sqrt(5000)
        assert change.drift > 0
    same = changes_by_layer(base, instruct, instruct)
    assert [change.cosine for change in same] == pytest.approx([1.0, 1.0, 1.0])
    still = changes_by_layer(base, base, new_base)
    assert {change.cosine for change in still} == {None}
    assert {change.residual for change in still} == {0.0}


def test_what_does_not_descend_from_the_base_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    stranger = hub_directory(tmp_path / "stranger", seed=9)
    with pytest.raises(ValueError, match=r"base and new base must have a common ancestor"):
        graft(*opened({**models, "new base": stranger}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
