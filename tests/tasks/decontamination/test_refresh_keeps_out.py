"""A refresh keeps task items out of training text, and no text is trained on unsearched."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.manifest import load
from storage.snapshots import SnapshotManifest, read_snapshot
from tasks.build import LEAKS
from tasks.decontamination.current import bring_up_to_date, check_current
from tasks.evaluations.trained_on import TrainedOn
from tasks.refresh_request import RefreshRequest, TrainedTokenizer, inputs_of
from tests.tasks.evaluations.test_freeze import LAYOUT, Place, story


class Kept(Place):
    """The place of ``test_freeze``, whose refreshes keep a file of questions out."""

    def manifest(self, snapshot: str) -> SnapshotManifest:
        return read_snapshot(self.store, LAYOUT, snapshot)

    def reasons(self, snapshot: str) -> dict[str, str]:
        path = self.store.local_path(f"{LAYOUT.snapshot(snapshot)}/documents.parquet")
        return {row["document"]: row["reason"] for row in pq.read_table(path).to_pylist()}

    def leak(self, *numbers: int) -> None:
        """Ask for the endings of these stories."""
        rows = [{"context": story(n).rsplit(" ", 1)[0], "continuation": "came."} for n in numbers]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self.quiz.write_text(text, encoding="utf-8")


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_documents_that_give_items_away_are_dropped_listed_and_counted(kept: Kept) -> None:
    kept.leak(70, 75, 900)
    suite_before = kept.head.suite
    snapshot = kept.refresh(range(60, 90), kept_out=(kept.task(),))
    reasons = kept.reasons(snapshot)
    assert {name for name, why in reasons.items() if why == "contaminated"} == {
        "web/d70",
        "web/d75",
    }
    manifest = kept.manifest(snapshot)
    (checked,) = manifest.checked_tasks
    assert (checked.task, checked.documents_dropped) == ("quiz", 2)
    assert manifest.checked_suite == suite_before is not None
    assert manifest.documents_dropped == {"contaminated": 2}
    lines = kept.store.get(f"{LAYOUT.snapshot(snapshot)}/{LEAKS}").splitlines()
    leaks = [json.loads(line) for line in lines]
    assert [leak["document"] for leak in leaks] == ["web/d70", "web/d75"]
    # The suite's own task is the one that was searched for.
    suite = kept.freeze(kept.task())
    assert suite.tasks[0].file.name == checked.items
    check_current(kept.store, LAYOUT, kept.head, [snapshot])


def test_a_task_that_comes_later_is_searched_for_before_anything_is_trained(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.leak(*range(60))
    suite = kept.freeze(kept.task())
    held = suite.slices[0].documents
    (first,) = (record.id for record in kept.head.snapshots)
    with pytest.raises(ValueError, match=f"snapshot {first} was never searched for .* quiz"):
        check_current(kept.store, LAYOUT, kept.head, [first])
    bring_up_to_date(kept.store, LAYOUT, kept.head, [first], work_dir=kept.folder / "work")
    check_current(kept.store, LAYOUT, kept.head, [first])
    found = load(kept.store, LAYOUT.trained_on(suite.tasks[0].file.name, first), TrainedOn)
    # Only text that is trained on gives an item away.
    assert len(found.items) == 60 - held
    assert f"{60 - held} of 60 items of task quiz stand in snapshot {first}" in caplog.text


def test_other_items_or_another_share_make_another_snapshot(tmp_path: Path) -> None:
    ids: set[str] = set()
    for name, number, share in (("a", 70, 0.5), ("b", 71, 0.5), ("c", 70, 0.6), ("d", 70, 0.5)):
        kept = Kept(tmp_path / name)
        kept.leak(number)
        request = RefreshRequest(
            sources=(),
            tokenizer=TrainedTokenizer(600),
            seq_len=32,
            kept_out=(kept.task(),),
            leak_share=share,
        )
        ids.add(inputs_of(kept.store, LAYOUT, request, None, (), tmp_path).identity)
    assert len(ids) == 3
