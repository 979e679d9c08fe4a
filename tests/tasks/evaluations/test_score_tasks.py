import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import CorruptError
from storage.head import Head, VersionRecord
from storage.models import publish_model, upload_files
from storage.suite import SuiteManifest
from tasks.evaluations.config import MintedConfig, TaskConfig
from tasks.evaluations.frozen import read_items
from tasks.evaluations.item_record import read_item_scores, write_item_scores
from tasks.evaluations.score_tasks import TaskEvidence, score_tasks
from tasks.scoring.compute import Desk
from tasks.scoring.place import Place as ScoringPlace
from tasks.scoring.scores import weights_of
from tasks.train import ComputeConfig
from tests.tasks.evaluations.test_freeze import LAYOUT, Place, story
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.hub.directory import write_model
from training.items.score import ItemScore

MODEL = ModelConfig(
    vocab_size=608,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
    max_position_embeddings=64,
)
CANARIES = MintedConfig(cloze_items=0, canary_items=150)


class Judged(Place):
    """The place of ``test_freeze`` with a champion 1-x and a candidate 2-y."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.publish("1-x", seed=1)
        self.publish("2-y", seed=2)

    def publish(self, version: str, *, seed: int) -> None:
        directory = self.folder / version
        model = Decoder(MODEL)
        model.init_weights(seed)
        write_model(directory, MODEL, model.state_dict(), start_id=0, end_id=0)
        prefix = LAYOUT.model(version)
        manifest = upload_files(
            self.store,
            prefix,
            directory,
            lineage="demo",
            version=version,
            origin="test",
            code_version="0",
        )
        publish_model(self.store, prefix, manifest)

    def evidence(
        self,
        suite: SuiteManifest,
        *,
        champion: str | None = "1-x",
        margin: float = 1.0,
        head: Head | None = None,
        place: ScoringPlace | None = None,
    ) -> TaskEvidence:
        head = self.head if head is None else head
        return score_tasks(
            Desk(self.store, LAYOUT, self.folder / "work"),
            suite,
            candidate="2-y",
            champion=champion,
            head=head,
            trained=[record.id for record in head.snapshots],
            max_accuracy_loss=margin,
            place=place or ScoringPlace(),
        )

    def answer(self, suite: SuiteManifest, version: str, shares: dict[str, float]) -> None:
        """Put answers on record, right with the probability that ``shares`` has for a task."""
        weights = weights_of(self.store, LAYOUT, version)
        for task in suite.tasks:
            rng = random.Random(f"{version}/{task.name}")
            scores = [
                ItemScore(
                    item=frozen.item.id,
                    cluster=frozen.item.cluster,
                    is_correct=rng.random() < shares[task.name],
                    answer="x",
                    nats=1.0,
                    targets=1,
                )
                for frozen in read_items(self.store, LAYOUT, task)
            ]
            write_item_scores(self.store, LAYOUT, weights, task, scores)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    return Judged(tmp_path)


def ask_stories(judged: Judged, numbers: list[int], **changes: Any) -> TaskConfig:
    rows = [{"context": story(n).rsplit(" ", 1)[0], "continuation": "came."} for n in numbers]
    judged.quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return judged.task(**changes)


def test_what_the_champion_only_guesses_guards_nothing_and_says_so(judged: Judged) -> None:
    suite = judged.freeze(judged.task(), minted=CANARIES)
    shares = {
        "canary-copy-1": 1 / 8,
        "canary-induction-1": 0.5,
        "canary-ordering-1": 1 / 6,
        "quiz": 0.6,
    }
    judged.answer(suite, "1-x", shares)
    judged.answer(suite, "2-y", dict.fromkeys(shares, 0.9))
    found = {scores.task: scores for scores in judged.evidence(suite).tasks}
    assert {name for name, scores in found.items() if scores.is_guarded} == {
        "canary-induction-1",
        "quiz",
    }
    why = found["canary-copy-1"].why_unguarded
    assert why.startswith("at chance level: the champion has ")
    assert why.endswith(" of 150 items right, guessing gives 12.5%")
    assert [score.item for score in found["quiz"].candidate] == [
        score.item for score in found["quiz"].champion
    ]


def test_items_of_the_training_text_are_a_part_of_their_own_that_guards_nothing(
    judged: Judged,
) -> None:
    held = judged.freeze().slices[0].documents
    suite = judged.freeze(ask_stories(judged, [*range(60), *range(900, 940)]))
    for version in ("1-x", "2-y"):
        judged.answer(suite, version, {"quiz": 0.7})
    fresh, known = judged.evidence(suite).tasks
    assert (fresh.task, fresh.is_guarded) == ("quiz", True)
    assert len(fresh.candidate) == len(fresh.champion) == 40 + held
    assert (known.task, known.is_guarded) == ("quiz (trained on)", False)
    snapshot = judged.head.snapshots[0].id
    assert known.why_unguarded == (
        f"{60 - held} of 100 items stand in the training text of {snapshot}"
    )
    assert not {s.item for s in fresh.candidate} & {s.item for s in known.candidate}


def test_a_task_that_informs_only_is_asked_and_guards_nothing(judged: Judged) -> None:
    suite = judged.freeze(judged.task(informs_only=True))
    for version in ("1-x", "2-y"):
        judged.answer(suite, version, {"quiz": 0.9})
    (found,) = judged.evidence(suite).tasks
    assert (found.is_guarded, found.why_unguarded) == (False, "it is configured to inform only")


def test_texts_are_held_out_text_that_must_not_get_worse(judged: Judged) -> None:
    rows = [{"text": story(n)} for n in (1, 2, 900, 901, 902)]
    judged.quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = judged.freeze(judged.task(kind="perplexity"))
    evidence = judged.evidence(suite)
    assert evidence.tasks == ()
    (text,) = evidence.texts
    assert (text.name, text.domain, text.role) == ("task quiz", "task quiz", "old")
    assert text.champion is not None
    assert len(text.candidate) == len(text.champion) >= 3
    assert all(score.nats > 0 and score.text_bytes > 100 for score in text.candidate)


def test_real_models_are_asked_once_and_then_read_from_the_record(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = judged.freeze(judged.task(), minted=replace(CANARIES, canary_items=20))
    first = judged.evidence(suite)
    assert len(first.tasks) == 4
    assert {len(scores.candidate) for scores in first.tasks} == {20}

    def not_again(*_: Any) -> None:
        raise AssertionError("every answer is on record")

    monkeypatch.setattr(Desk, "model", not_again)
    assert judged.evidence(suite) == first
    # A suite in which another task changed asks that one only.
    judged.ask(range(21))
    changed = judged.freeze(judged.task(), minted=replace(CANARIES, canary_items=20))
    with pytest.raises(AssertionError, match="every answer is on record"):
        judged.evidence(changed)


@pytest.mark.ray
@pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")  # importing ray.train reads such fields
def test_on_ray_and_after_a_crash_models_give_the_same_bits(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = judged.freeze(judged.task(), minted=CANARIES)
    here = judged.evidence(suite)
    weights = weights_of(judged.store, LAYOUT, "2-y")
    whole = {LAYOUT.task_scores(weights, task.file.name) for task in suite.tasks}
    keys = {info.key for info in judged.store.list(LAYOUT.model_task_scores(weights))}
    parts = sorted(keys - whole)
    assert len(parts) > len(suite.tasks)
    # What a crash leaves: no task is whole, of the parts every second one is there.
    for key in (*whole, *parts[::2]):
        judged.store.delete(key)
    monkeypatch.setattr("tasks.evaluations.answers.LITTLE_FLOPS", 0.0)
    place = ScoringPlace(
        store_uri=judged.store.uri, compute=ComputeConfig(num_workers=2, threads_per_worker=1)
    )
    monkeypatch.setattr(Desk, "model", lambda *_: pytest.fail("Ray's workers have the models"))
    assert judged.evidence(suite, place=place) == here


def test_a_first_version_is_asked_for_the_record_and_compared_with_nobody(judged: Judged) -> None:
    suite = judged.freeze(judged.task())
    assert judged.evidence(suite, champion=None) == TaskEvidence()
    weights = weights_of(judged.store, LAYOUT, "2-y")
    recorded = read_item_scores(judged.store, LAYOUT, weights, suite.tasks[0])
    assert recorded is not None
    assert len(recorded) == 20


def test_a_task_that_cannot_rule_out_the_tolerated_fall_guards_only_when_history_says_it_can(
    judged: Judged,
) -> None:
    minted = replace(CANARIES, canary_items=200)
    suite = judged.freeze(minted=minted)
    names = [task.name for task in suite.tasks]
    judged.answer(suite, "1-x", dict.fromkeys(names, 0.9))
    judged.answer(suite, "2-y", dict.fromkeys(names, 0.9))
    evidence = judged.evidence(suite, margin=0.05)
    assert {scores.why_unguarded for scores in evidence.tasks} == {
        "too few items: 200 can rule out a fall of 11.6% at the least, 5.0% is allowed"
    }
    # An earlier candidate, judged against 1-x, that answered nearly as 1-x did.
    record = VersionRecord(
        version="1-w",
        update="0" * 16,
        verdict="FAIL",
        decision="refused",
        parent="1-x",
        trunk=None,
        snapshots=(),
        replay=None,
        on_head=1,
    )
    judged.publish("1-w", seed=3)
    weights = weights_of(judged.store, LAYOUT, "1-w")
    before = weights_of(judged.store, LAYOUT, "1-x")
    for task in suite.tasks:
        scores = read_item_scores(judged.store, LAYOUT, before, task)
        assert scores is not None
        changed = [
            replace(score, is_correct=score.is_correct != (place < 6))
            for place, score in enumerate(scores)
        ]
        write_item_scores(judged.store, LAYOUT, weights, task, changed)
    after = replace(judged.head, versions=(record,))
    known = judged.evidence(suite, margin=0.05, head=after)
    assert all(scores.is_guarded for scores in known.tasks)


def test_a_record_of_other_items_is_found(judged: Judged) -> None:
    suite = judged.freeze(judged.task())
    judged.answer(suite, "2-y", {"quiz": 0.5})
    (task,) = suite.tasks
    weights = weights_of(judged.store, LAYOUT, "2-y")
    with pytest.raises(CorruptError, match=r"holds 20 scores of items .*, expected 21 of"):
        read_item_scores(judged.store, LAYOUT, weights, replace(task, items=21))
