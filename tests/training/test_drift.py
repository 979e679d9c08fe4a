import math
from pathlib import Path

import pytest
import torch

from tests.support.lineages import hub_directory
from training.drift import drift_between
from training.hub.directory import load_decoder, write_model
from training.hub.weights import write_weights


def directory(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    write_weights(path, {name.replace("__", "."): tensor for name, tensor in tensors.items()})
    return path


def test_drift_made_by_hand_is_exact(tmp_path: Path) -> None:
    old = directory(
        tmp_path / "old",
        model__embed_tokens__weight=torch.tensor([[3.0, 4.0]]),
        model__layers__0__mlp__up_proj__weight=torch.tensor([6.0, 0.0]),
        model__layers__0__mlp__down_proj__weight=torch.tensor([8.0]),
        model__layers__1__self_attn__q_proj__weight=torch.tensor([0.0, 2.0]),
    )
    new = directory(
        tmp_path / "new",
        model__embed_tokens__weight=torch.tensor([[3.0, 4.0]]),
        model__layers__0__mlp__up_proj__weight=torch.tensor([6.0, 3.0]),
        model__layers__0__mlp__down_proj__weight=torch.tensor([4.0]),
        model__layers__1__self_attn__q_proj__weight=torch.tensor([0.0, 3.0]),
    )
    drift = drift_between(new, old)
    assert [(p.layer, p.part, p.parameters, p.relative) for p in drift.parts] == [
        (None, "embed_tokens", 2, 0.0),
        (0, "mlp", 3, 0.5),
        (1, "self_attn", 2, 0.5),
    ]
    assert drift.by_layer == {0: 0.5, 1: 0.5}
    assert drift.total == math.sqrt(26 / 129)
    assert drift.uncompared == ()


def test_a_model_has_not_drifted_from_itself(tmp_path: Path) -> None:
    model = hub_directory(tmp_path / "model")
    drift = drift_between(model, model)
    assert drift.total == 0.0
    assert set(drift.by_layer) == {0, 1}
    # Every parameter is counted once, tied embeddings too.
    parameters = sum(p.numel() for p in load_decoder(model).parameters())
    assert sum(part.parameters for part in drift.parts) == parameters


def test_drift_is_that_of_the_whole_models(tmp_path: Path) -> None:
    old = hub_directory(tmp_path / "old", seed=1)
    model = load_decoder(old)
    before = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * number)
    new = tmp_path / "new"
    write_model(new, model.config, model.state_dict(), start_id=0, end_id=1)
    names = {name for name, _ in model.named_parameters()}
    after = model.state_dict()
    moved = sum(float((after[name].double() - before[name]).square().sum()) for name in names)
    norm = sum(float(before[name].square().sum()) for name in names)
    # Sums of squares in another order: double rounds in the sixteenth digit.
    assert drift_between(new, old).total == pytest.approx(math.sqrt(moved / norm), rel=1e-12)


def test_a_family_stored_with_and_without_its_prefix_is_one(tmp_path: Path) -> None:
    old = directory(tmp_path / "old", h__3__mlp__weight=torch.tensor([2.0]))
    new = directory(tmp_path / "new", transformer__h__3__mlp__weight=torch.tensor([3.0]))
    for one, other in ((new, old), (old, new)):
        drift = drift_between(one, other)
        assert [(part.layer, part.part) for part in drift.parts] == [(3, "mlp")]
        assert drift.uncompared == ()


def test_what_only_one_of_them_has_is_named(tmp_path: Path) -> None:
    old = directory(tmp_path / "old", a__weight=torch.ones(2), b__weight=torch.ones(2))
    new = directory(tmp_path / "new", a__weight=torch.ones(3), c__weight=torch.ones(2))
    drift = drift_between(new, old)
    assert drift.parts == ()
    assert drift.total is None
    assert drift.uncompared == ("a.weight", "b.weight", "c.weight")


def test_a_weight_that_is_no_number_gives_no_number(tmp_path: Path) -> None:
    old = directory(tmp_path / "old", a__weight=torch.ones(2), b__weight=torch.ones(1))
    new = directory(
        tmp_path / "new", a__weight=torch.tensor([1.0, math.nan]), b__weight=torch.ones(1)
    )
    drift = drift_between(new, old)
    assert [part.relative for part in drift.parts] == [None, 0.0]
    assert drift.total is None
