"""Scores on record, by model and unit of a slice, and the matrix of forgetting.

A score is found by its inputs: the hash of the model's weights, and the unit, whose name holds the
hash of the shards. So nothing is scored twice, versions with equal weights share what they score,
and what a takedown rewrote is scored anew. The record of a model grows by parts; none is changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import identity_of, load, publish
from storage.models import read_model_manifest, weights_hash
from storage.objects import ObjectStore
from storage.suite import SuiteManifest
from tasks.judge.verdict import DocumentScore, nats_per_token
from tasks.scoring.forgetting import ForgettingMatrix, MatrixRow
from tasks.scoring.units import SliceUnits, item_key, stored_units

Nats = tuple[float, ...]
"""Of the documents of a unit, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUnit:
    """What a model made of one unit."""

    unit: str
    nats: tuple[float | None, ...]
    """None where the sum is not a finite number, which JSON cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresPart:
    """Units that were scored together."""

    weights: str
    """SHA-256 of the model's weights and configuration."""
    units: tuple[StoredUnit, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that one model has scored."""

    nats: Mapping[str, Nats]
    """By the name of the unit."""

    def has(self, units: SliceUnits, depth: int) -> bool:
        """Whether the first ``depth`` units of a slice are on record."""
        return all(units.id_of(index) in self.nats for index in range(depth))

    def depth(self, units: SliceUnits) -> int:
        """How many of the first units of a slice are on record."""
        missing = (i for i in range(len(units.units)) if units.id_of(i) not in self.nats)
        return next(missing, len(units.units))

    def scores(self, units: SliceUnits, depth: int) -> tuple[DocumentScore, ...]:
        """The scores of all documents of the first ``depth`` units of a slice.

        Raises:
            CorruptError: A unit on record has another number of documents.
            KeyError: A unit is not on record.
        """
        found: list[DocumentScore] = []
        for index, unit in enumerate(units.units[:depth]):
            nats = self.nats[units.id_of(index)]
            if len(nats) != len(unit.documents):
                raise CorruptError(
                    f"the scores of unit {units.id_of(index)} are of {len(nats)} documents, the "
                    f"unit has {len(unit.documents)}: delete the scores, they will be computed "
                    "again"
                )
            rows = zip(
                unit.documents, unit.clusters, nats, unit.targets, unit.text_bytes, strict=True
            )
            found += [DocumentScore(*row) for row in rows]
        return tuple(found)


def weights_of(store: ObjectStore, layout: Layout, version: str) -> str:
    """What the scores of a version are filed under. Raises NotFoundError without such a model."""
    return weights_hash(read_model_manifest(store, layout.model(version)))


def read_record(store: ObjectStore, layout: Layout, weights: str) -> Record:
    """Everything on record of the model with these weights; of a unit scored twice, the first.

    Raises:
        CorruptError: A part is damaged, or of another model.
    """
    found: dict[str, Nats] = {}
    for key in _parts(store, layout, weights):
        part = load(store, key, ScoresPart)
        if part.weights != weights:
            raise CorruptError(
                f"{key} holds scores of the model {part.weights[:12]}, expected {weights[:12]}: "
                "delete it, it will be computed again"
            )
        for stored in part.units:
            nats = tuple(math.nan if value is None else value for value in stored.nats)
            found.setdefault(stored.unit, nats)
    return Record(found)


def record_of(store: ObjectStore, layout: Layout, version: str) -> Record:
    """``read_record`` of a version; empty when its model is not there any more."""
    try:
        weights = weights_of(store, layout, version)
    except NotFoundError:
        return Record({})
    return read_record(store, layout, weights)


def write_part(
    store: ObjectStore, layout: Layout, weights: str, scored: Mapping[str, Sequence[float]]
) -> None:
    """Put scored units on record. Safe to retry, and for several at once: the first is believed.

    Whoever goes on with the scores reads them back, for a verdict must rest on what is on record.
    """
    units = tuple(
        StoredUnit(unit=unit, nats=tuple(value if math.isfinite(value) else None for value in nats))
        for unit, nats in sorted(scored.items())
    )
    # Numbered, so that what comes later is read later.
    number = len(_parts(store, layout, weights))
    name = f"{number:06d}-{identity_of(sorted(scored))[:12]}.json"
    try:
        publish(
            store,
            f"{layout.model_scores(weights)}/{name}",
            ScoresPart(weights=weights, units=units),
        )
    except AlreadyExistsError:
        # Somebody else has scored the same units meanwhile, and another machine rounds differently.
        return


def forgetting_matrix(
    store: ObjectStore, layout: Layout, head: Head, suite: SuiteManifest
) -> ForgettingMatrix:
    """The losses of all versions on all slices, from the record alone; computes no score."""
    age = {record.id: index for index, record in enumerate(head.snapshots)}
    slices = sorted(suite.slices, key=lambda item: (age.get(item.snapshot, len(age)), item.domain))
    records = [record_of(store, layout, version.version) for version in head.versions]
    scored = {unit.rpartition("/")[0] for record in records for unit in record.nats}
    columns: list[list[float | None]] = []
    for item in slices:
        units = None
        if item_key(item) in scored:
            units = stored_units(store, layout, item)
        columns.append([None] * len(records) if units is None else _column(records, units))
    rows = tuple(
        MatrixRow(
            version=version.version,
            decision=version.decision,
            is_champion=version.version == head.champion,
            nats_per_token=tuple(column[index] for column in columns),
        )
        for index, version in enumerate(head.versions)
    )
    return ForgettingMatrix(slices=tuple(item.name for item in slices), rows=rows)


def _column(records: Sequence[Record], units: SliceUnits) -> list[float | None]:
    depths = [record.depth(units) for record in records]
    # Versions were scored on more or fewer units; the first ones are common to all.
    common = min((depth for depth in depths if depth), default=0)
    return [
        nats_per_token(record.scores(units, common)) if depth else None
        for record, depth in zip(records, depths, strict=True)
    ]


def _parts(store: ObjectStore, layout: Layout, weights: str) -> list[str]:
    return sorted(info.key for info in store.list(layout.model_scores(weights)))
