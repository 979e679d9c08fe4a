"""Score candidate and champion on the same frozen items, and see whether the candidate writes.

Scores are kept by version and slice (``tasks.scoring.scores``), so only what is missing is
computed: most of the champion's are on record since it was a candidate. Importing this module loads
no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from infra.progress import Progress
from storage.errors import CorruptError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import read_verified
from storage.objects import ObjectStore
from storage.snapshots import UNIGRAM, SnapshotManifest, read_snapshot
from storage.suite import SuiteManifest, SuiteSlice
from tasks.judge.health import MAX_PERPLEXITY_RATIO, Health
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import DocumentScore, EarlierScores, Role, SliceScores
from tasks.scoring.canary import (
    FirstLook,
    Looker,
    Sample,
    passages_a_slice,
    passages_of,
    spread_over,
)
from tasks.scoring.scores import read_scores, write_scores

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.data.holdout import HoldoutDocument

_Scores = tuple[DocumentScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Everything that ``tasks.judge.decide.decide`` needs."""

    slices: tuple[SliceScores, ...]
    health: Health
    unguarded_base: bool
    """The lineage grew from an imported model and has no reference."""
    numbers: Numbers = field(default_factory=Numbers)
    """What is shown beside the verdict, so far as scoring finds it."""


def check(
    store: ObjectStore,
    layout: Layout,
    *,
    candidate: str,
    champion: str | None,
    suite: SuiteManifest,
    head: Head,
    new_snapshots: Sequence[str],
    work_dir: Path,
    max_perplexity_ratio: float = MAX_PERPLEXITY_RATIO,
) -> CheckResult:
    """Score both models on what was just learned and on what must not be forgotten.

    Cheap before dear: first a few passages of every slice, and how both models continue them. A
    candidate that has collapsed, or writes nothing more, is not scored further: its scores are then
    those of the passages.

    Safe to retry: every slice's scores are on record as soon as they are computed.

    Args:
        store: Holds models, snapshots and scores.
        layout: Of the lineage.
        candidate: Version whose model lies under ``models/<candidate>/``.
        champion: Version in use; None for the first version of a lineage that starts from nothing.
        suite: Frozen items.
        head: Tells which snapshots are old: learned ones and references.
        new_snapshots: What the candidate was trained on for the first time.
        work_dir: For local copies of models.
        max_perplexity_ratio: Of any slice's passages, above which the candidate has collapsed.

    Raises:
        CorruptError: A model, a shard or a record is damaged.
        NotFoundError: A model or a snapshot does not exist.
    """
    # Not at the top: it imports torch, which a process that merely schedules must not pay for.
    from tasks.scoring.measure import score_unigram  # noqa: PLC0415

    roles = _roles(head, new_snapshots)
    items = [item for item in suite.slices if item.snapshot in roles and item.documents]
    scene = _Scene(store, layout, work_dir, {})
    unguarded = _is_unguarded(head)
    look = _first_look(scene, items, roles, candidate, champion, max_perplexity_ratio)
    if look.health.problem:
        return CheckResult(
            slices=look.slices, health=look.health, unguarded_base=unguarded, numbers=look.numbers
        )
    ours = _score(scene, candidate, items)
    theirs = _score(scene, champion, items) if champion else {}
    unigram: dict[str, _Scores] = {}
    if champion is None:
        counts = _counts(scene, new_snapshots)
        unigram = {item.name: score_unigram(counts, scene.documents(item)) for item in items}
    slices = tuple(
        SliceScores(
            name=item.name,
            domain=item.domain,
            snapshot=item.snapshot,
            role=roles[item.snapshot],
            candidate=ours[item.name],
            champion=theirs.get(item.name),
            unigram=unigram.get(item.name),
            earlier=_earlier(scene, item, head, (candidate, champion)),
        )
        for item in items
    )
    return CheckResult(
        slices=slices, health=look.health, unguarded_base=unguarded, numbers=look.numbers
    )


@dataclass(frozen=True, slots=True)
class _Scene:
    """Where things are read from; models stay in ``loaded``, for loading one takes a while."""

    store: ObjectStore
    layout: Layout
    work_dir: Path
    loaded: "dict[str, CausalModel]"

    def model(self, version: str) -> "CausalModel":
        from tasks.scoring.measure import open_model  # noqa: PLC0415  torch

        if version not in self.loaded:
            self.loaded[version] = open_model(self.store, self.layout, version, self.work_dir)
        return self.loaded[version]

    def snapshot(self, snapshot: str) -> SnapshotManifest:
        return read_snapshot(self.store, self.layout, snapshot)

    def documents(self, item: SuiteSlice) -> "list[HoldoutDocument]":
        from tasks.scoring.measure import read_documents  # noqa: PLC0415  torch

        snapshot = self.snapshot(item.snapshot)
        return read_documents(self.store, self.layout, item, snapshot, self.work_dir)


def _roles(head: Head, new_snapshots: Sequence[str]) -> dict[str, Role]:
    """What each snapshot is to the candidate; held, refused and waiting ones are nothing."""
    roles: dict[str, Role] = {
        record.id: "old"
        for record in head.snapshots
        if record.state == "learned" or record.role == "reference"
    }
    for snapshot in new_snapshots:
        roles[snapshot] = "new"
    return roles


def _is_unguarded(head: Head) -> bool:
    imported = any(record.verdict == "IMPORTED" for record in head.versions)
    return imported and not any(record.role == "reference" for record in head.snapshots)


def _first_look(
    scene: _Scene,
    items: Sequence[SuiteSlice],
    roles: Mapping[str, Role],
    candidate: str,
    champion: str | None,
    max_perplexity_ratio: float,
) -> FirstLook:
    chosen = items[spread_over(len(items))]
    if not chosen:
        return FirstLook(health=Health(finite=True), slices=())
    count = passages_a_slice(len(chosen))
    samples = tuple(
        Sample(
            slice=item.name,
            domain=item.domain,
            snapshot=item.snapshot,
            role=roles[item.snapshot],
            documents=tuple(passages_of(scene.documents(item), count)),
        )
        for item in chosen
    )
    looker = Looker(
        store=scene.store,
        layout=scene.layout,
        model=scene.model,
        end_id=scene.snapshot(chosen[0].snapshot).end_id,
        samples=samples,
        max_perplexity_ratio=max_perplexity_ratio,
    )
    return looker.look(candidate, champion)


def _score(scene: _Scene, version: str, items: Sequence[SuiteSlice]) -> dict[str, _Scores]:
    """Scores by slice; the model is loaded only when a record is missing."""
    from tasks.scoring.measure import score  # noqa: PLC0415  torch

    recorded = {
        item.name: found
        for item in items
        if (found := read_scores(scene.store, scene.layout, version, item)) is not None
    }
    missing = [item for item in items if item.name not in recorded]
    if not missing:
        return recorded
    done = 0
    with Progress(f"check {version}", sum(item.tokens for item in missing), "tokens") as progress:
        for item in missing:
            progress.update(done, item.name)
            snapshot = scene.snapshot(item.snapshot)
            computed = score(scene.model(version), scene.documents(item), snapshot)
            recorded[item.name] = write_scores(scene.store, scene.layout, version, item, computed)
            done += item.tokens
        progress.update(done)
    return recorded


def _earlier(
    scene: _Scene, item: SuiteSlice, head: Head, without: Sequence[str | None]
) -> tuple[EarlierScores, ...]:
    """What published versions made of a slice, from the record only."""
    found = [
        (record.version, read_scores(scene.store, scene.layout, record.version, item))
        for record in head.versions
        # One that was rolled back was found wanting; nobody has to be as good as that.
        if record.decision == "published" and record.version not in without
    ]
    return tuple(
        EarlierScores(version=version, scores=scores)
        for version, scores in found
        if scores is not None
    )


def _counts(scene: _Scene, snapshots: Sequence[str]) -> npt.NDArray[np.int64]:
    """How often each token was a training target in ``snapshots``, ``int64[vocab_size]``."""
    counts: list[npt.NDArray[np.int64]] = []
    for snapshot in map(scene.snapshot, snapshots):
        prefix = scene.layout.snapshot(snapshot.id)
        digest = next((file for file in snapshot.files if file.name == UNIGRAM), None)
        if digest is None or digest.size != 8 * snapshot.vocab_size:
            raise CorruptError(
                f"{prefix}/{UNIGRAM} was expected with {snapshot.vocab_size} counts of 8 "
                f"bytes, "
                f"the manifest has {'none' if digest is None else f'{digest.size} bytes'}: mint "
                f"the "
                "snapshot again"
            )
        counts.append(np.frombuffer(read_verified(scene.store, prefix, digest), dtype="<i8"))
    return np.sum(counts, axis=0, dtype=np.int64)
