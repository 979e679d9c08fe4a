"""Score candidate and champion on the same frozen items, and see whether the candidate writes.

What is judged is chosen by ``tasks.scoring.panel``. Scores are kept by model and unit
(``tasks.scoring.scores``), so only what is missing is computed: most of the champion's are on
record since it was a candidate. Importing this module loads no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import CorruptError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import read_verified
from storage.objects import ObjectStore
from storage.revised import find_file
from storage.snapshots import UNIGRAM, SnapshotManifest, read_snapshot
from storage.suite import SuiteManifest
from tasks.evaluations.score_tasks import score_tasks
from tasks.judge.health import Health
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import CheckConfig, DocumentScore, EarlierScores, SliceScores, TaskScores
from tasks.scoring.canary import FirstLook, Looker
from tasks.scoring.compute import Desk, scores_on_record
from tasks.scoring.panel import JudgedSlice, Panel, panel_of
from tasks.scoring.passages import Sample, passages_a_slice, passages_of, spread_over
from tasks.scoring.place import Place
from tasks.scoring.scores import Record, record_of

_Scores = tuple[DocumentScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Everything that ``tasks.judge.decide.decide`` needs."""

    slices: tuple[SliceScores, ...]
    """Old ones under the name of their guard, which is what a verdict is about."""
    health: Health
    unguarded_base: bool
    """The lineage grew from an imported model and has no reference."""
    tasks: tuple[TaskScores, ...] = ()
    """Answers to task items, also of tasks that guard nothing."""
    texts: tuple[SliceScores, ...] = ()
    """Tasks that are texts, as old held-out text; in no panel, and of no snapshot."""
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
    config: CheckConfig | None = None,
    place: Place | None = None,
) -> CheckResult:
    """Score both models on what was just learned and on what must not be forgotten.

    Cheap before dear: first a few passages of every slice, and how both models continue them. A
    candidate that has collapsed, or writes nothing more, is not scored further: its scores are then
    those of the passages.

    Safe to retry: scores are on record a few units after they are computed.

    Args:
        store: Holds models, snapshots and scores.
        layout: Of the lineage.
        candidate: Version whose model lies under ``models/<candidate>/``.
        champion: Version in use; None for the first version of a lineage that starts from nothing.
        suite: Frozen items.
        head: Tells which snapshots are old: learned ones and references.
        new_snapshots: What the candidate was trained on for the first time.
        work_dir: For local copies of models.
        config: Decides what is scored; None: the defaults.
        place: Where it is scored; None: in this process.

    Raises:
        CorruptError: A model, a shard or a record is damaged.
        NotFoundError: A model or a snapshot does not exist.
        TrainingError: Ray lost its workers too often, or has no room for one.
    """
    config = config or CheckConfig()
    panel = panel_of(
        store,
        layout,
        head=head,
        suite=suite,
        new_snapshots=new_snapshots,
        config=config,
        work_dir=work_dir,
    )
    desk = Desk(store, layout, work_dir)
    unguarded = is_unguarded(head)
    look = _first_look(desk, panel, candidate, champion, config)
    if look.health.problem:
        return CheckResult(
            slices=look.slices, health=look.health, unguarded_base=unguarded, numbers=look.numbers
        )
    versions = [candidate, champion] if champion else [candidate]
    place = place or Place()
    records = scores_on_record(desk, panel, versions, place)
    asked = score_tasks(
        desk,
        suite,
        candidate=candidate,
        champion=champion,
        head=head,
        trained=trained_on(head, new_snapshots),
        max_accuracy_loss=config.max_accuracy_loss,
        place=place,
    )
    return CheckResult(
        slices=_slices_of(
            panel,
            records[candidate],
            records[champion] if champion else None,
            unigram={} if champion else _unigram_scores(desk, panel, new_snapshots),
            earlier=_earlier_records(store, layout, head, versions),
        ),
        health=look.health,
        unguarded_base=unguarded,
        tasks=asked.tasks,
        texts=asked.texts,
        numbers=look.numbers,
    )


def trained_on(head: Head, new_snapshots: Sequence[str]) -> list[str]:
    """Snapshots that the candidate or the model in use has learned, or which stand for that."""
    return [
        record.id
        for record in head.snapshots
        if record.state == "learned" or record.role == "reference" or record.id in new_snapshots
    ]


def is_unguarded(head: Head) -> bool:
    """Whether the lineage grew from an imported model and has no text like what that knew."""
    imported = any(record.verdict == "IMPORTED" for record in head.versions)
    return imported and not any(record.role == "reference" for record in head.snapshots)


def _first_look(
    desk: Desk, panel: Panel, candidate: str, champion: str | None, config: CheckConfig
) -> FirstLook:
    chosen = panel.slices[spread_over(len(panel.slices))]
    if not chosen:
        return FirstLook(health=Health(finite=True), slices=())
    folder = desk.folder(chosen[0].item)
    count, seq_len = passages_a_slice(len(chosen)), folder.seq_len
    samples = tuple(
        Sample(
            slice=judged.item.name,
            domain=judged.label,
            snapshot=judged.item.snapshot,
            role=judged.role,
            is_guarded=judged.is_guarded,
            documents=tuple(passages_of(desk.scored_documents(judged), count, seq_len=seq_len)),
        )
        for judged in chosen
    )
    looker = Looker(
        store=desk.store,
        layout=desk.layout,
        model=desk.model,
        end_id=folder.end_id,
        seq_len=seq_len,
        samples=samples,
        max_perplexity_ratio=config.max_perplexity_ratio,
    )
    return looker.look(candidate, champion)


def _slices_of(
    panel: Panel,
    candidate: Record,
    champion: Record | None,
    *,
    unigram: Mapping[str, _Scores],
    earlier: Mapping[str, Record],
) -> tuple[SliceScores, ...]:
    """The slices of the panel with everything that anybody's scores say of them."""
    return tuple(
        SliceScores(
            name=item.item.name,
            domain=item.label,
            snapshot=item.item.snapshot,
            role=item.role,
            candidate=candidate.scores(item.units, item.depth),
            champion=champion.scores(item.units, item.depth) if champion else None,
            unigram=unigram.get(item.item.name),
            earlier=_earlier(item, earlier),
            is_guarded=item.is_guarded,
        )
        for item in panel.slices
    )


def _unigram_scores(desk: Desk, panel: Panel, snapshots: Sequence[str]) -> dict[str, _Scores]:
    """By slice: what the token frequencies of ``snapshots`` make of it."""
    # Not at the top: it imports torch, which a process that merely schedules must not pay for.
    from tasks.scoring.measure import score_unigram  # noqa: PLC0415

    counts = _counts(desk.store, desk.layout, snapshots)
    return {
        item.item.name: score_unigram(counts, desk.scored_documents(item)) for item in panel.slices
    }


def _earlier_records(
    store: ObjectStore, layout: Layout, head: Head, without: Sequence[str]
) -> dict[str, Record]:
    return {
        record.version: record_of(store, layout, record.version)
        for record in head.versions
        # One that was rolled back was found wanting; nobody has to be as good as that.
        if record.decision == "published" and record.version not in without
    }


def _earlier(item: JudgedSlice, records: Mapping[str, Record]) -> tuple[EarlierScores, ...]:
    """What published versions made of a slice, from the record only."""
    return tuple(
        EarlierScores(version=version, scores=record.scores(item.units, item.depth))
        for version, record in records.items()
        if record.has(item.units, item.depth)
    )


def _counts(store: ObjectStore, layout: Layout, snapshots: Sequence[str]) -> npt.NDArray[np.int64]:
    """How often each token was a training target in ``snapshots``, ``int64[vocab_size]``."""
    counts: list[npt.NDArray[np.int64]] = []
    for name in snapshots:
        snapshot: SnapshotManifest = read_snapshot(store, layout, name)
        prefix = layout.snapshot(snapshot.id)
        digest = find_file(snapshot.files, UNIGRAM)
        if digest is None or digest.size != 8 * snapshot.vocab_size:
            raise CorruptError(
                f"{prefix}/{UNIGRAM} was expected with {snapshot.vocab_size} counts of 8 bytes, "
                f"the manifest has {'none' if digest is None else f'{digest.size} bytes'}: mint "
                "the snapshot again"
            )
        counts.append(np.frombuffer(read_verified(store, prefix, digest), dtype="<i8"))
    return np.sum(counts, axis=0, dtype=np.int64)
