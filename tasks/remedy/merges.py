"""The models that merges make of a champion, a candidate and what lies around them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.layout import Layout
from storage.models import fetch_model, read_model_manifest
from storage.objects import ObjectStore
from tasks.judge.verdict import Remedy
from tasks.remedy.config import RemedyConfig
from tasks.update_plan import UpdatePlan, load_plan

if TYPE_CHECKING:
    from torch import Tensor

    from training.merge.parents import Parent
    from training.merge.rules import Rule

Settings = dict[str, float]

_HALF_SEEDS = (0, 1, 2)
_SLOPES = ((0.0, 1.0), (1.0, 0.0), (0.25, 0.75), (0.75, 0.25))
"""Weights of the candidate in the first and in the last layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A failed candidate with its relatives, all in one store."""

    store: ObjectStore
    layout: Layout
    plan: UpdatePlan
    config: RemedyConfig
    work_dir: Path
    """For local copies and merged models; everything in it can be made again."""

    @property
    def champion(self) -> str:
        """Version in use."""
        assert self.plan.champion is not None  # a first version is never merged
        return self.plan.champion


def settings_of(family: Family, remedy: Remedy) -> list[Settings]:
    """What to try of a remedy, in order; nothing where it would only repeat another one."""
    weights = family.config.weights
    match remedy:
        case "interpolation":
            return [{"weight": weight} for weight in weights]
        case "breadcrumbs":
            return [{"scale": weight} for weight in weights]
        case "task_arithmetic":
            # From the champion's own weights on it is interpolation, to the last bit but one.
            apart = _is_trunk_apart(family)
            return [{"scale": weight} for weight in weights] if apart else []
        case "last_k":
            count = len(_last_checkpoints(family))
            shares = (*weights, 1.0) if count > 1 else ()
            return [{"checkpoints": float(count), "weight": weight} for weight in shares]
        case "half_reset":
            return [{"seed": float(seed)} for seed in _HALF_SEEDS]
        case "layerwise":
            return [{"bottom": bottom, "top": top} for bottom, top in _SLOPES]
        case _:
            raise ValueError(f"{remedy} trains again, it merges nothing")


def open_family(family: Family, remedy: Remedy) -> "list[Parent]":
    """The models that a remedy merges, in the order that its rule expects. Safe to repeat.

    Raises:
        ValueError: They do not fit each other, or have no common ancestor; names them.
        CorruptError: A model or a checkpoint is damaged.
    """
    from training.merge.parents import check_related, open_parents  # noqa: PLC0415  torch

    parents = open_parents(_directories_of(family, remedy))
    first = parents[0]
    for other in parents[1:]:
        if other.directory != first.directory:
            check_related(first, other)
    return parents


def merge_into(
    family: Family,
    remedy: Remedy,
    settings: Settings,
    parents: "Sequence[Parent]",
    directory: Path,
) -> None:
    """Write the merged model as a Hugging Face directory. Safe to repeat: the same bytes."""
    from training.merge.merge import merge  # noqa: PLC0415  torch

    merge(parents, _rule_of(family, remedy, settings, list(parents[0].tensors)), directory)


def _rule_of(family: Family, remedy: Remedy, settings: Settings, names: Sequence[str]) -> "Rule":
    from training.merge import rules  # noqa: PLC0415  torch
    from training.merge.names import half_of_modules  # noqa: PLC0415

    match remedy:
        case "breadcrumbs":
            return rules.breadcrumbs(
                [settings["scale"]],
                beta=family.config.breadcrumbs_beta,
                gamma=family.config.breadcrumbs_gamma,
            )
        case "task_arithmetic":
            return rules.task_arithmetic([settings["scale"]])
        case "half_reset":
            return rules.half_reset(half_of_modules(names, int(settings["seed"])))
        case "layerwise":
            return rules.layerwise_interpolation(settings["bottom"], settings["top"], names)
        case _:
            return rules.interpolation(settings["weight"])


def _directories_of(family: Family, remedy: Remedy) -> dict[str, Path]:
    champion = {family.champion: _fetched(family, family.champion)}
    candidate = {family.plan.version: _fetched(family, family.plan.version)}
    match remedy:
        case "breadcrumbs":
            return champion | {f"{family.champion} (start)": champion[family.champion]} | candidate
        case "task_arithmetic":
            return champion | {"trunk": _trunk(family)} | candidate
        case "last_k":
            return champion | {f"last checkpoints of {family.plan.id}": _average(family)}
        case _:
            return champion | candidate


def _fetched(family: Family, version: str) -> Path:
    prefix = family.layout.model(version)
    return fetch_model(family.store, prefix, family.work_dir / "models" / version)


def _is_trunk_apart(family: Family) -> bool:
    """Whether the update began with other weights than the champion's."""
    trunk = family.plan.trunk
    if trunk is None:
        return False
    if read_model_manifest(family.store, family.layout.model(family.champion)).origin != trunk:
        return True
    update, _ = family.layout.checkpoint_of(trunk)
    # An average has the last of its checkpoints as its origin.
    return bool(load_plan(family.store, family.layout, update).train.release_steps)


def _trunk(family: Family) -> Path:
    from training.checkpoint.restore import load_weights  # noqa: PLC0415  torch

    directory = family.work_dir / "trunk"
    trunk = family.plan.trunk
    assert trunk is not None  # only asked for where it is apart from the champion
    weights = load_weights(family.store, trunk, family.work_dir / "trunk-checkpoint")
    return _written(family, weights, trunk, directory)


def _last_checkpoints(family: Family) -> list[str]:
    """The newest checkpoints that the update has stored, the oldest first."""
    from training.checkpoint.index import committed_steps, step_prefix  # noqa: PLC0415  torch

    train = family.plan.train
    steps = [
        step
        for step in committed_steps(family.store, train.checkpoint_prefix)
        if train.first_step < step <= train.num_steps
    ]
    newest = sorted(steps)[-family.config.last_checkpoints :]
    return [step_prefix(train.checkpoint_prefix, step) for step in newest]


def _average(family: Family) -> Path:
    from training.checkpoint.average import average_weights  # noqa: PLC0415  torch

    checkpoints = _last_checkpoints(family)
    shares = [1 / len(checkpoints)] * len(checkpoints)
    weights = average_weights(family.store, checkpoints, shares)
    return _written(family, weights, checkpoints[-1], family.work_dir / "last-checkpoints")


def _written(family: Family, weights: "dict[str, Tensor]", source: str, directory: Path) -> Path:
    """Weights of a checkpoint as a directory beside the candidate's tokenizer."""
    from training.model_files import model_with, write_directory  # noqa: PLC0415  torch

    train = family.plan.train
    shutil.rmtree(directory, ignore_errors=True)
    model = model_with(train.model, weights, source)
    write_directory(directory, model, start_id=train.start_id, end_id=train.end_id)
    tokenizer = _fetched(family, family.plan.version) / "tokenizer.json"
    shutil.copyfile(tokenizer, directory / tokenizer.name)
    return directory
