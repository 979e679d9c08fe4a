"""A document of which a refresh kept no text: what repeats it goes all the same, or is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.local_objects import LocalObjects
from storage.takedowns import UnkeptText
from tasks.curate import CurateConfig
from tasks.curation.config import DomainRules
from tasks.curation.pii import PiiRules
from tasks.forget.forget import foresee
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.dropped import DroppedSignatures
from tasks.paragraphs import ParagraphRules
from tests.tasks.forget.scene import Scene, files_with, words


def _reasons(scene: Scene, snapshot: str | None) -> dict[str, str]:
    rows = scene.table(snapshot)
    return {row["document"].removeprefix("web/"): row["reason"] for row in rows if row["reason"]}


@pytest.mark.parametrize("near", [True, False])
def test_what_equals_a_dropped_document_goes_with_it_and_what_was_made_of_that(
    tmp_path: Path, near: bool
) -> None:
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path, near=near)
    texts = {f"d{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts)
    seed = scene.split_of(scene.refresh().snapshot, "train")[0]
    more = {"retold": words(500), "new": words(99), "new-again": words(99)}
    scene.write("2.jsonl", {"copy": texts[seed]} | more, of={"retold": seed})
    second = scene.refresh().snapshot
    assert _reasons(scene, second) == {"copy": "duplicate", "new-again": "duplicate_in_batch"}
    done = scene.forget("copy", "web/new-again")
    assert {(one.document, one.why) for one in done.takedown.documents} == {
        ("web/copy", "asked"),
        ("web/new-again", "asked"),
        (f"web/{seed}", "alike"),
        ("web/new", "alike"),
        ("web/retold", "derived"),
    }
    assert (done.takedown.unkept, done.proof.places) == ((), ())
    needles = scene.needles(texts | more, seed, "new", "retold")
    assert files_with(scene.folder / "store", needles) == []


def test_what_was_delivered_equal_goes_though_the_rules_have_changed_one(tmp_path: Path) -> None:
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path, near=False)
    masked = {"curate": CurateConfig(domains={"*": DomainRules(pii=PiiRules())})}
    texts = {f"d{n}": f"{words(n)} mail jane.{n}@corp-mail.org" for n in range(12)}
    # Every second file is read with rules, and the other way round.
    for number, changes in enumerate(({}, masked, {})):
        scene.changes = changes
        new = {f"e{number}-{n}": words(100 * number + n) for n in range(100, 112)}
        again = {f"{number}-{name}": text for name, text in texts.items()}
        scene.write(f"{number}.jsonl", again | new)
        scene.refresh()
    for asked, of in (("0-d3", 3), ("1-d4", 4), ("2-d5", 5)):
        found = foresee(scene.site, scene.head, ids=[asked], texts=[]).found
        assert {one.document for one in found.documents} == {
            f"web/{number}-d{of}" for number in range(3)
        }
        assert found.unkept == {}


def test_what_a_near_copy_nearly_repeats_goes_with_it_and_its_own_near_copies_stay_out(
    scene: Scene,
) -> None:
    # The first is kept, whichever side it is split to.
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)} | {"in": words(3, changed=4)})
    first = scene.refresh().snapshot
    assert _reasons(scene, first) == {"in": "near_duplicate_in_batch"}
    scene.write("2.jsonl", {"later": words(5, changed=10), "new": words(99)})
    assert _reasons(scene, scene.refresh().snapshot) == {"later": "near_duplicate"}
    done = scene.forget("in", "later")
    assert {(one.document, one.why) for one in done.takedown.documents} == {
        ("web/in", "asked"),
        ("web/d3", "alike"),
        ("web/later", "asked"),
        ("web/d5", "alike"),
    }
    assert {(one.reason, one.is_repeated) for one in done.takedown.unkept} == {
        ("near_duplicate_in_batch", True),
        ("near_duplicate", True),
    }
    assert done.proof.places == ()
    needles = scene.needles({"d3": words(3), "d5": words(5)}, "d3", "d5")
    assert files_with(scene.folder / "store", needles) == []
    # Far from what was kept, near to what was not: its signature is all that there was of it.
    begun = words(5, changed=10).split()[:72]
    far = " ".join([*begun, *words(700).split()[:8]])
    scene.write("3.jsonl", {"again": far, "new-too": words(98)})
    assert _reasons(scene, scene.refresh().snapshot) == {"again": "near_duplicate"}


def test_a_stricter_threshold_takes_less_of_what_a_dropped_document_repeats(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)} | {"near": words(3, changed=4)})
    scene.refresh()
    site = replace(scene.site, near=NearDuplicateConfig(threshold=0.99))
    found = foresee(site, scene.head, ids=["near"], texts=[]).found
    assert [one.document for one in found.documents] == ["web/near"]
    assert found.unkept == {
        "web/near": UnkeptText(reason="near_duplicate_in_batch", is_repeated=False)
    }


def test_what_cannot_be_searched_for_is_told_by_the_reason_why_it_was_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, other = words(50, num_words=40), words(51, num_words=10)
    scene.changes = {
        "curate": CurateConfig(domains={"*": DomainRules(paragraphs=ParagraphRules())})
    }
    texts = {f"d{n}": words(n) for n in range(12)} | {"lines": f"{line}\n{words(52)}"}
    # As snapshots are from before signatures of dropped documents were kept.
    monkeypatch.setattr(DroppedSignatures, "add", lambda *_: None)
    dropped = {"near": words(3, changed=4), "short": "too short", "repeats": f"{line}\n{other}"}
    scene.write("1.jsonl", texts)
    scene.refresh()
    scene.write("2.jsonl", dropped | {"repeats-again": dropped["repeats"], "new": words(99)})
    scene.refresh()
    found = foresee(scene.site, scene.head, ids=list(dropped), texts=[]).found
    assert {name: (one.reason, one.is_repeated) for name, one in found.unkept.items()} == {
        "web/near": ("near_duplicate", False),
        "web/short": ("too_short", False),
        "web/repeats": ("paragraph_duplicates", False),
    }
    assert found.too_short == 0
    # Of two equal ones the reason of the first counts.
    found = foresee(scene.site, scene.head, ids=["repeats-again"], texts=[]).found
    assert {one.reason for one in found.unkept.values()} == {"paragraph_duplicates"}
    # A text that is given is searched for.
    asked = foresee(scene.site, scene.head, ids=list(dropped), texts=list(dropped.values()))
    assert asked.found.unkept == {}
    assert asked.found.windows


def test_a_copy_of_what_was_forgotten_before_says_so(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts)
    scene.refresh()
    scene.forget("d3")
    scene.write("2.jsonl", {"copy": words(3), "near": words(3, changed=4), "new": words(99)})
    scene.refresh()
    done = scene.forget("copy", "near")
    assert [one.document for one in done.takedown.documents] == ["web/copy", "web/near"]
    assert done.takedown.unkept == (UnkeptText(reason="forgotten", is_repeated=False),) * 2
