"""Compute the scores that are missing: in this process, or on the lineage's Ray.

The same bits either way, on one kind of processor: a unit is scored by one thread, whoever it is.
Importing this module loads neither torch nor Ray.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from infra.progress import Progress
from storage.layout import Layout
from storage.models import ModelManifest, read_model_manifest, weights_hash
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot_manifest
from storage.suite import SuiteSlice
from tasks.scoring.panel import JudgedSlice, Panel
from tasks.scoring.place import BATCHES_A_WORKER, LITTLE_FLOPS, Place, scoring_job
from tasks.scoring.scores import Record, read_record, write_part
from tasks.scoring.units import folder_of
from training.data.holdout_folder import HoldoutFolder, ScoringUnit

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.cluster.scoring import ScoringJob
    from training.data.holdout import HoldoutDocument

logger = logging.getLogger(__name__)

_BATCH_UNITS = 32
"""Scored before they are put on record, at most: what a crash costs."""


@dataclass(slots=True)
class Desk:
    """What is at hand while scoring: opened models and holdouts that were read."""

    store: ObjectStore
    layout: Layout
    work_dir: Path
    models: "dict[str, CausalModel]" = field(default_factory=dict)
    folders: dict[str, HoldoutFolder] = field(default_factory=dict[str, HoldoutFolder])
    holdouts: "dict[str, list[HoldoutDocument]]" = field(default_factory=dict)

    def model(self, version: str) -> "CausalModel":
        """The model of a version, on a GPU if this process has one."""
        from tasks.scoring.measure import open_model  # noqa: PLC0415  torch

        if version not in self.models:
            self.models[version] = open_model(self.store, self.layout, version, self.work_dir)
        return self.models[version]

    def folder(self, item: SuiteSlice) -> HoldoutFolder:
        """Where the documents of a slice lie."""
        if item.name not in self.folders:
            snapshot = read_snapshot_manifest(self.store, self.layout, item.snapshot)
            self.folders[item.name] = folder_of(self.layout, item, snapshot)
        return self.folders[item.name]

    def documents(self, item: SuiteSlice) -> "list[HoldoutDocument]":
        """All documents of a slice."""
        if item.name not in self.holdouts:
            cache = self.work_dir / "snapshots"
            self.holdouts[item.name] = self.folder(item).read(self.store, cache)
        return self.holdouts[item.name]

    def scored_documents(self, judged: JudgedSlice) -> "list[HoldoutDocument]":
        """Those that are scored, in the order of their scores."""
        documents = self.documents(judged.item)
        return [row for unit in judged.scored for row in unit.pick(documents)]


def scores_on_record(
    desk: Desk, panel: Panel, versions: Sequence[str], place: Place
) -> dict[str, Record]:
    """The records of ``versions``, once everything that the panel needs of them is there.

    Safe to retry: what is scored is on record a few units at a time, and only what is missing is
    computed.

    Raises:
        NotFoundError: A model that is not on record does not exist.
        CorruptError: A model, a shard or a record is damaged.
        TrainingError: Ray lost its workers too often, or has no room for one.
    """
    models = {version: _model_of(desk, version) for version in versions}
    found = {
        version: read_record(desk.store, desk.layout, models[version].weights)
        for version in versions
    }
    # Versions with equal weights are one model.
    by_weights = {models[version].weights: version for version in reversed(versions)}
    work = [
        task
        for version in by_weights.values()
        if (task := _task(version, models[version], panel, found[version])).units
    ]
    if not work:
        return found
    if place.has_more and sum(task.flops for task in work) > LITTLE_FLOPS:
        _score_on_ray(desk, work, place)
    else:
        for task in work:
            _score_here(desk, task, place.num_threads)
    return {
        version: read_record(desk.store, desk.layout, models[version].weights)
        for version in versions
    }


@dataclass(frozen=True, slots=True)
class _Model:
    version: str
    weights: str
    num_parameters: int
    """Of weights in two bytes, and twice too many of those in four."""


@dataclass(frozen=True, slots=True)
class _Missing:
    """A unit that a model has not scored."""

    id: str
    item: SuiteSlice
    unit: ScoringUnit


@dataclass(frozen=True, slots=True)
class _Task:
    """One model and what it has to score."""

    model: _Model
    units: tuple[_Missing, ...]

    @property
    def tokens(self) -> int:
        return sum(missing.unit.tokens for missing in self.units)

    @property
    def flops(self) -> float:
        return 2.0 * self.model.num_parameters * self.tokens

    def batches(self, size: int) -> list[tuple[_Missing, ...]]:
        """Units in their order, as many at a time as are put on record together."""
        return [self.units[at : at + size] for at in range(0, len(self.units), size)]


def _model_of(desk: Desk, version: str) -> _Model:
    manifest = read_model_manifest(desk.store, desk.layout.model(version))
    return _Model(version, weights_hash(manifest), _num_parameters(manifest))


def num_parameters_of(desk: Desk, version: str) -> int:
    """Of a version's model with weights in two bytes, and twice too many with four."""
    return _num_parameters(read_model_manifest(desk.store, desk.layout.model(version)))


def _num_parameters(manifest: ModelManifest) -> int:
    size = sum(file.size for file in manifest.files if file.name.endswith(".safetensors"))
    return size // 2


def _task(version: str, model: _Model, panel: Panel, record: Record) -> _Task:
    missing = tuple(
        _Missing(judged.units.id_of(index), judged.item, unit)
        for judged in panel.slices
        for index, unit in enumerate(judged.scored)
        if judged.units.id_of(index) not in record.nats
    )
    logger.debug("%s has to score %d units", version, len(missing))
    return _Task(model, missing)


def _score_here(desk: Desk, task: _Task, num_threads: int) -> None:
    from training.score_units import score_units  # noqa: PLC0415  torch

    model = desk.model(task.model.version)
    done = 0
    with Progress(f"check {task.model.version}", task.tokens, "tokens") as progress:
        progress.update(0)

        def tell(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress.update(done)

        for batch in task.batches(max(_BATCH_UNITS, num_threads)):
            units = [
                (desk.folder(missing.item), missing.unit.pick(desk.documents(missing.item)))
                for missing in batch
            ]
            nats = score_units(model, units, num_threads=num_threads, on_tokens=tell)
            _record(desk, task.model, batch, nats)


def _score_on_ray(desk: Desk, work: Sequence[_Task], place: Place) -> None:
    from training.cluster.scoring import score_on_ray  # noqa: PLC0415  only where Ray is used

    share = math.ceil(
        sum(len(task.units) for task in work) / (BATCHES_A_WORKER * place.most_workers)
    )
    size = min(_BATCH_UNITS, share)
    batches = [(task, batch) for task in work for batch in task.batches(size)]
    names = ", ".join(task.model.version for task in work)
    done = 0
    total = sum(task.tokens for task in work)
    with Progress(f"check {names}", total, "tokens") as progress:
        progress.update(0)

        def take(number: int, nats: Sequence[Sequence[float]]) -> None:
            nonlocal done
            task, batch = batches[number]
            _record(desk, task.model, batch, nats)
            done += sum(missing.unit.tokens for missing in batch)
            progress.update(done)

        score_on_ray(_job(desk, batches, place), place.pool("scoring"), take)


def _job(
    desk: Desk, batches: Sequence[tuple[_Task, tuple[_Missing, ...]]], place: Place
) -> "ScoringJob":
    from training.cluster.scoring import ScoringBatch  # noqa: PLC0415  only where Ray is used

    items = {missing.item.name: missing.item for _, batch in batches for missing in batch}
    numbers = {name: number for number, name in enumerate(items)}
    asked = [
        ScoringBatch(
            model=desk.layout.model(task.model.version),
            units=tuple((numbers[one.item.name], one.unit.rows) for one in batch),
        )
        for task, batch in batches
    ]
    return scoring_job(
        place, desk.work_dir, asked, folders=tuple(desk.folder(item) for item in items.values())
    )


def _record(
    desk: Desk, model: _Model, batch: Sequence[_Missing], nats: Sequence[Sequence[float]]
) -> None:
    scored: Mapping[str, Sequence[float]] = {
        missing.id: found for missing, found in zip(batch, nats, strict=True)
    }
    write_part(desk.store, desk.layout, model.weights, scored)
