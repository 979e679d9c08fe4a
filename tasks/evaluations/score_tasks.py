"""Ask candidate and champion the task items of the suite, and say what of it may guard.

Only what is missing is computed: answers are kept by model and content. Importing this module loads
no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from storage.head import Head
from storage.models import is_published, read_model_manifest, weights_hash
from storage.suite import SuiteManifest, SuiteTask
from tasks.evaluations.answers import answers_on_record
from tasks.evaluations.chance import why_informing
from tasks.evaluations.detectable import Pair, detectable_fall
from tasks.evaluations.frozen import FrozenItem, read_items
from tasks.evaluations.item_record import read_item_scores
from tasks.evaluations.trained_on import find_trained_on
from tasks.judge.verdict import DocumentScore, SliceScores, TaskScores
from tasks.scoring.compute import Desk
from tasks.scoring.place import Place
from training.items.score import ItemScore

TRAINED_ON = "(trained on)"
"""Follows the name of a task in the name of the part of it that guards nothing."""

_RECENT_PAIRS = 5
_Scores = tuple[ItemScore, ...]
_Found = Mapping[str, Sequence[str]]
"""By snapshot the ids of items that stand in its training text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvidence:
    """What the task items of a suite show."""

    tasks: tuple[TaskScores, ...] = ()
    """By right and wrong answers. Items that were trained on are tasks of their own."""
    texts: tuple[SliceScores, ...] = ()
    """Tasks that are texts, in nats as any held-out text; old ones, which must not get worse."""


def score_tasks(
    desk: Desk,
    suite: SuiteManifest,
    *,
    candidate: str,
    champion: str | None,
    head: Head,
    trained: Sequence[str],
    max_accuracy_loss: float,
    place: Place,
) -> TaskEvidence:
    """The answers of both models, and which tasks a verdict may depend on.

    Safe to retry: what is answered is on record, a few items at a time. Without a champion there is
    nothing to compare with: the candidate is asked, for the record, and the evidence is empty.

    Args:
        desk: Where models and records are.
        suite: With its tasks.
        candidate: Version under judgement.
        champion: Version in use.
        head: Has the lineage's tokenizer, and the versions that were judged before.
        trained: Snapshots that one of the two was trained on, or which stand for that.
        max_accuracy_loss: Largest tolerated fall, as a share of items: what cannot rule that out
            guards nothing.
        place: Where models answer.

    Raises:
        NotFoundError: A model does not exist.
        CorruptError: A model, a record or a file of items is damaged.
        TrainingError: Ray lost its workers too often, or has no room for one.
    """
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    if not suite.tasks:
        return TaskEvidence()
    assert head.tokenizer is not None  # tasks are frozen when there are tokenised documents
    tokenizer = fetch_tokenizer(desk.store, head.tokenizer, desk.work_dir / "tokenizer")
    items = {task.name: read_items(desk.store, desk.layout, task) for task in suite.tasks}
    answers = answers_on_record(
        desk,
        [candidate, champion] if champion else [candidate],
        suite.tasks,
        items,
        tokenizer=head.tokenizer,
        place=place,
    )
    if champion is None:
        return TaskEvidence()
    ours, theirs = answers[candidate], answers[champion]
    found = find_trained_on(desk.store, desk.layout, suite.tasks, trained, tokenizer, desk.work_dir)
    judged = _judged_before(desk, head, without=candidate)
    tasks: list[TaskScores] = []
    texts: list[SliceScores] = []
    for task in suite.tasks:
        both = ours[task.name], theirs[task.name]
        if task.kind == "perplexity":
            texts.append(_as_text(task, items[task.name], *both, found[task.name]))
        else:
            parts = _parts(task, items[task.name], *both, found[task.name])
            earlier = _earlier(desk, task, judged)
            tasks += [_able(part, earlier, max_accuracy_loss) for part in parts]
    return TaskEvidence(tasks=tuple(tasks), texts=tuple(texts))


def _parts(
    task: SuiteTask,
    items: Sequence[FrozenItem],
    candidate: _Scores,
    champion: _Scores,
    found: _Found,
) -> list[TaskScores]:
    """The task without the items that were trained on, and these."""
    known = {item for each in found.values() for item in each}
    fresh = TaskScores(
        task=task.name,
        candidate=tuple(score for score in candidate if score.item not in known),
        champion=tuple(score for score in champion if score.item not in known),
    )
    parts: list[TaskScores] = []
    if fresh.candidate:
        asked = [frozen.item for frozen in items if frozen.item.id not in known]
        why = why_informing(asked, fresh.champion, "the champion", informs_only=task.informs_only)
        parts.append(replace(fresh, is_guarded=not why, why_unguarded=why))
    if known:
        parts.append(
            TaskScores(
                task=f"{task.name} {TRAINED_ON}",
                candidate=tuple(score for score in candidate if score.item in known),
                champion=tuple(score for score in champion if score.item in known),
                is_guarded=False,
                why_unguarded=_why_known(task, known, found),
            )
        )
    return parts


def _able(part: TaskScores, earlier: Sequence[Pair], margin: float) -> TaskScores:
    """The task, guarded only if it can rule out the largest tolerated fall."""
    clusters = len({score.cluster for score in part.candidate})
    detectable = detectable_fall(len(part.candidate), clusters, earlier)
    if not part.is_guarded or detectable <= margin:
        return part
    why = (
        f"too few items: {len(part.candidate)} can rule out a fall of {detectable:.1%} at the "
        f"least, {margin:.1%} is allowed"
    )
    return replace(part, is_guarded=False, why_unguarded=why)


def _judged_before(desk: Desk, head: Head, *, without: str) -> list[tuple[str, str]]:
    """Weights of judged versions and of those that they were compared with, latest first."""

    def weights(version: str) -> str:
        prefix = desk.layout.model(version)
        if not is_published(desk.store, prefix):
            return ""
        return weights_hash(read_model_manifest(desk.store, prefix))

    judged = [
        (record.version, record.parent)
        for record in reversed(head.versions)
        if record.parent is not None and record.version != without
    ]
    pairs = [(weights(version), weights(parent)) for version, parent in judged[:_RECENT_PAIRS]]
    return [pair for pair in pairs if all(pair)]


def _earlier(desk: Desk, task: SuiteTask, judged: Sequence[tuple[str, str]]) -> list[Pair]:
    """What those answered, so far as it is on record."""
    found: list[Pair] = []
    for pair in judged:
        ours, theirs = (read_item_scores(desk.store, desk.layout, of, task) for of in pair)
        if ours is not None and theirs is not None:
            found.append((ours, theirs))
    return found


def _why_known(task: SuiteTask, known: set[str], found: _Found) -> str:
    where = ", ".join(snapshot for snapshot, each in sorted(found.items()) if each)
    return f"{len(known)} of {task.items} items stand in the training text of {where}"


def _as_text(
    task: SuiteTask,
    items: Sequence[FrozenItem],
    candidate: _Scores,
    champion: _Scores,
    found: _Found,
) -> SliceScores:
    """A task of texts as an old slice of held-out text, without what was trained on."""
    known = {item for each in found.values() for item in each}
    size = {frozen.item.id: len(frozen.item.choices[0].encode()) for frozen in items}

    def documents(scores: _Scores) -> tuple[DocumentScore, ...]:
        return tuple(
            DocumentScore(s.item, s.cluster, s.nats, s.targets, size[s.item])
            for s in scores
            if s.item not in known
        )

    return SliceScores(
        name=f"task {task.name}",
        domain=f"task {task.name}",
        snapshot="",
        role="old",
        candidate=documents(candidate),
        champion=documents(champion),
        is_guarded=not task.informs_only,
    )
