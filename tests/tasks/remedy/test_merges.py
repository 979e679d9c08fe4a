"""The models that remedies merge, from a champion, a candidate, their trunk and checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from storage.local_objects import LocalObjects
from storage.models import fetch_model
from tasks.judge.verdict import Remedy
from tasks.publish import export
from tasks.remedy.config import RemedyConfig
from tasks.remedy.merges import Family, Settings, merge_into, open_family, settings_of
from tasks.update_plan import UpdatePlan, save_plan
from tests.support.lineages import LAYOUT, MODEL, SEQ_LEN, TEXTS
from tests.tasks.test_publish import trained
from training.checkpoint.restore import load_weights
from training.checkpoint.state import TrainState, save
from training.config import Recipe, TrainPlan
from training.decoder.model import Decoder
from training.hub.directory import load_decoder
from training.release import Release
from training.tokenizer import upload_tokenizer
from training.tokenizer_training import train_tokenizer

CHAMPION, CANDIDATE = "1-aaaaaaaa", "2-bbbbbbbb"
STEPS = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def run(store: LocalObjects, work_dir: Path, update: str, seed: int) -> TrainPlan:
    """An update whose checkpoints move a little further from the same weights with every step."""
    plan = replace(trained(store, work_dir, update=update), num_steps=STEPS, trunk_step=STEPS)
    noise = torch.Generator().manual_seed(seed)
    model = Decoder(MODEL, seed=5)
    for step in range(2, STEPS + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.002 * torch.randn(parameter.shape, generator=noise)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
        optimizer.step()
        save(store, plan, TrainState(model, optimizer, step=step), {}, work_dir / "save")
    return plan


def plan_of(train: TrainPlan, version: str, trunk: str | None) -> UpdatePlan:
    return UpdatePlan(
        id=train.update,
        version=version,
        lineage="demo",
        champion=CHAMPION,
        trunk=trunk,
        snapshots=(),
        new_tokens=0,
        replay=None,
        replay_share_requested=0.0,
        replay_share=0.0,
        suite="",
        recipe=Recipe(seq_len=SEQ_LEN),
        train=train,
    )


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def family(store: LocalObjects, tmp_path: Path) -> Family:
    """Champion and candidate, both at the end of their runs."""
    tokenizer = upload_tokenizer(
        store, LAYOUT, train_tokenizer(TEXTS, tmp_path / "tokenizer", vocab_size=300).directory
    )
    plans = {
        version: run(store, tmp_path, update, seed)
        for version, update, seed in ((CHAMPION, "u1", 1), (CANDIDATE, "u2", 2))
    }
    for version, plan in plans.items():
        export(
            store,
            LAYOUT,
            checkpoint_prefix=f"{plan.checkpoint_prefix}/step-{STEPS}",
            version=version,
            tokenizer_prefix=tokenizer,
            plan=plan,
            work_dir=tmp_path / "work",
        )
    save_plan(store, LAYOUT, plan_of(plans[CHAMPION], CHAMPION, None))
    trunk = f"{plans[CHAMPION].checkpoint_prefix}/step-{STEPS}"
    return Family(
        store=store,
        layout=LAYOUT,
        plan=plan_of(plans[CANDIDATE], CANDIDATE, trunk),
        config=RemedyConfig(weights=(0.25, 0.5), last_checkpoints=3),
        work_dir=tmp_path / "work" / "remedy",
    )


def merged(family: Family, remedy: Remedy, settings: Settings) -> dict[str, Tensor]:
    directory = family.work_dir / "out"
    merge_into(family, remedy, settings, open_family(family, remedy), directory)
    return load_decoder(directory).state_dict()


def weights_of(family: Family, version: str) -> dict[str, Tensor]:
    directory = fetch_model(family.store, LAYOUT.model(version), family.work_dir / version)
    return load_decoder(directory).state_dict()


def step_of(family: Family, update: str, step: int) -> dict[str, Tensor]:
    prefix = f"{LAYOUT.checkpoints(update)}/step-{step}"
    return load_weights(family.store, prefix, family.work_dir)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        # A rounding or two of numbers below 1.
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-7, msg=name)


def test_from_the_champions_own_weights_task_arithmetic_would_only_interpolate(
    family: Family,
) -> None:
    assert settings_of(family, "task_arithmetic") == []
    assert settings_of(family, "interpolation") == [{"weight": 0.25}, {"weight": 0.5}]
    first, second = weights_of(family, CHAMPION), weights_of(family, CANDIDATE)
    found = merged(family, "interpolation", {"weight": 0.25})
    assert_same(found, {name: 0.75 * first[name] + 0.25 * second[name] for name in first})


def test_what_was_learned_from_another_trunk_is_added_to_the_champion(family: Family) -> None:
    trunk = f"{LAYOUT.checkpoints('u1')}/step-2"
    family = replace(family, plan=replace(family.plan, trunk=trunk))
    assert settings_of(family, "task_arithmetic") == [{"scale": 0.25}, {"scale": 0.5}]
    champion, candidate = weights_of(family, CHAMPION), weights_of(family, CANDIDATE)
    start = step_of(family, "u1", 2)
    found = merged(family, "task_arithmetic", {"scale": 0.5})
    assert_same(
        found, {name: champion[name] + 0.5 * (candidate[name] - start[name]) for name in champion}
    )


def test_an_averaged_champion_is_no_trunk_though_it_names_the_last_checkpoint(
    family: Family, store: LocalObjects
) -> None:
    averaged = Release(kind="lawa", checkpoints=2, every_steps=1)
    earlier = plan_of(replace(family.plan.train, update="u3", release=averaged), "1-cccccccc", None)
    save_plan(store, LAYOUT, earlier)
    trunk = f"{LAYOUT.checkpoints('u3')}/step-{STEPS}"
    champion = replace(family.plan, champion="1-dddddddd", trunk=trunk)
    assert family.plan.train is not None
    export(
        store,
        LAYOUT,
        checkpoint_prefix=f"{LAYOUT.checkpoints('u1')}/step-{STEPS}",
        version="1-dddddddd",
        tokenizer_prefix=next(
            info.key.rpartition("/")[0] for info in store.list(f"{LAYOUT.root}/tokenizers")
        ),
        plan=family.plan.train,
        work_dir=family.work_dir,
    )
    assert settings_of(replace(family, plan=champion), "task_arithmetic") != []


def test_the_last_checkpoints_are_averaged_before_they_are_merged(family: Family) -> None:
    assert settings_of(family, "last_k") == [
        {"checkpoints": 3.0, "weight": weight} for weight in (0.25, 0.5, 1.0)
    ]
    steps = [step_of(family, "u2", step) for step in (2, 3, 4)]
    mean = {
        name: torch.stack([weights[name].double() for weights in steps]).mean(0).float()
        for name in steps[0]
    }
    assert_same(merged(family, "last_k", {"checkpoints": 3.0, "weight": 1.0}), mean)


def test_a_half_reset_is_made_of_whole_tensors_of_both(family: Family) -> None:
    first, second = weights_of(family, CHAMPION), weights_of(family, CANDIDATE)
    found = merged(family, "half_reset", {"seed": 1.0})
    taken = [name for name in found if torch.equal(found[name], second[name])]
    kept = [name for name in found if torch.equal(found[name], first[name])]
    assert sorted(taken + kept) == sorted(found)
    assert len(found) / 4 < len(taken) < len(found) * 3 / 4


def test_breadcrumbs_and_layers_give_a_model_between_both(family: Family) -> None:
    first, second = weights_of(family, CHAMPION), weights_of(family, CANDIDATE)
    tried: dict[Remedy, Settings] = {
        "breadcrumbs": {"scale": 0.5},
        "layerwise": {"bottom": 0.0, "top": 1.0},
    }
    for remedy, settings in tried.items():
        for name, tensor in merged(family, remedy, settings).items():
            low, high = (
                torch.minimum(first[name], second[name]),
                torch.maximum(first[name], second[name]),
            )
            assert ((low <= tensor) & (tensor <= high)).all(), (remedy, name)
