"""What is like a text that is taken down, or shows some of it, goes too and stays out."""

from pathlib import Path

from storage.head import Head, commit_change
from storage.local_objects import LocalObjects
from storage.transitions import refuse
from tasks.forget.forget import foresee, is_new
from tasks.forget.others import others_with
from tasks.forget.passages import Passages
from tasks.reporting.refresh_report import write_refresh_report
from tests.tasks.forget.scene import LAYOUT, Scene, files_with, words


def test_what_is_alike_and_what_was_made_of_it_goes_too(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(20)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    seed = scene.split_of(first, "train")[0]
    number = int(seed[1:])
    made = {"retold": words(500), "retold-again": words(501), "apart": words(502)}
    of = {"retold": f"web/{seed}", "retold-again": "retold"}
    scene.write("2.jsonl", made, of=of)
    second = scene.refresh().snapshot
    # By a text that nobody has, but that is like one that is there.
    done = scene.forget(texts=(words(number, changed=3),))
    found = {(one.document, one.why) for one in done.takedown.documents}
    assert found == {
        (f"web/{seed}", "alike"),
        ("web/retold", "derived"),
        ("web/retold-again", "derived"),
    }
    assert done.proof.places == ()
    assert {row["document"] for row in scene.table(second) if row["reason"] == ""} == {"web/apart"}


def test_near_copies_from_before_the_section_go_too_and_stay_out(scene: Scene) -> None:
    near, scene.near = scene.near, None
    made = {
        "retold": words(500),
        "retold-near": words(500, changed=2),
        "retold-near-retold": words(501),
    }
    of = {"retold": "d3", "retold-near-retold": "retold-near"}
    texts = {f"d{n}": words(n) for n in range(12)} | {"near": words(3, changed=2)}
    scene.write("1.jsonl", texts | made, of=of)
    scene.refresh()
    scene.near = near
    assert foresee(scene.site, scene.head, ids=["d3"], texts=[]).unindexed == 1
    done = scene.forget("d3")
    found = {(one.document, one.why) for one in done.takedown.documents}
    assert found == {
        ("web/d3", "asked"),
        ("web/near", "alike"),
        ("web/retold", "derived"),
        ("web/retold-near", "alike"),
        ("web/retold-near-retold", "derived"),
    }
    assert done.proof.places == ()
    again = {"again": words(3, changed=4), "retold-again": words(500, changed=3), "new": words(99)}
    scene.write("2.jsonl", again)
    assert scene.refresh().documents_dropped == {"near_duplicate": 2}


def test_a_text_that_nobody_has_stays_out_as_well(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)})
    scene.refresh()
    done = scene.forget(texts=(words(99),))
    assert (done.takedown.documents, len(scene.head.takedowns)) == ((), 1)
    asked = [foresee(scene.site, scene.head, ids=(), texts=(words(n),)) for n in (99, 98)]
    assert [is_new(scene.site, one) for one in asked] == [False, True]
    again = {"copy": words(99), "near": words(99, changed=2), "new": words(100)}
    scene.write("2.jsonl", again)
    assert scene.refresh().documents_dropped == {"duplicate": 1, "near_duplicate": 1}


def test_the_line_end_of_a_file_is_no_part_of_the_text_that_is_asked_for(tmp_path: Path) -> None:
    scene = Scene(LocalObjects(tmp_path / "store"), tmp_path, near=False)
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)} | {"e": words(20) + "\n"})
    scene.refresh()
    done = scene.forget(texts=(words(3) + "\n", words(20)))
    assert {one.why for one in done.takedown.documents} == {"asked"}
    assert len(done.takedown.documents) == 2
    assert done.proof.places == ()
    scene.write("2.jsonl", {"a": words(3), "b": words(3) + "\n", "new": words(100)})
    assert scene.refresh().documents_dropped == {"duplicate": 2}


def test_copies_of_what_a_refused_snapshot_had_stay_out(scene: Scene) -> None:
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(12)})
    first = scene.refresh().snapshot
    assert first is not None

    def without_it(head: Head | None) -> Head:
        assert head is not None
        return refuse(head, first, suite=None, by="test", reason="a licence")

    commit_change(scene.store, LAYOUT, without_it)
    scene.forget("d3")
    assert files_with(scene.folder / "store", scene.needles({"d3": words(3)}, "d3")) == []
    again = {f"e{n}": words(n) for n in range(12)}
    scene.write("2.jsonl", again | {"near": words(3, changed=2)})
    assert scene.refresh().documents_dropped == {"duplicate": 1, "near_duplicate": 1}


def test_what_another_document_says_alike_is_told_with_its_name(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(20)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    quoted = scene.split_of(first, "train")[0]
    scene.write("2.jsonl", {"quoting": f"{words(50)} {texts[quoted][:250]} {words(51)}"})
    scene.refresh()
    done = scene.forget(quoted)
    assert [one.document for one in done.takedown.documents] == [f"web/{quoted}"]
    assert done.proof.places
    passages = Passages(done.takedown.windows)
    others = others_with(scene.store, LAYOUT, done.proof.places, passages, scene.work)
    assert others == ("web/quoting",)


def test_what_a_refresh_shows_of_near_copies_goes_as_well(scene: Scene) -> None:
    texts = {f"d{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts | {"copy-in-batch": words(3, changed=2)})
    first = scene.refresh().snapshot
    near, other = words(3, changed=4), words(5, changed=4)
    scene.write("2.jsonl", {"near": near, "other": other, "new": words(99)})
    second = scene.refresh().snapshot
    assert first is not None
    assert second is not None
    for snapshot in (first, second):
        write_refresh_report(scene.store, LAYOUT, snapshot, scene.work)
    # They are in no shard: only shown, as examples of their reason.
    needles = [" ".join(near.split()[6:20]).encode()]
    before = files_with(scene.folder / "store", needles)
    assert {path.name.partition("-")[0].partition(".")[0] for path in before} == {
        "examples",
        "refresh",
    }
    done = scene.forget("d3")
    assert done.takedown.quoting == tuple(sorted((first, second)))
    assert done.proof.places == ()
    assert files_with(scene.folder / "store", needles) == []
    # What is shown of others stays.
    kept = [" ".join(other.split()[6:20]).encode()]
    assert len(files_with(scene.folder / "store", kept)) == 2


def test_a_near_copy_of_a_long_text_that_begins_otherwise_is_shown_no_more(scene: Scene) -> None:
    long = words(50, num_words=12_000)
    scene.write("1.jsonl", {f"d{n}": words(n) for n in range(11)} | {"long": long})
    scene.refresh()
    scene.write("2.jsonl", {"near": f"another beginning {long[64:]}", "new": words(99)})
    second = scene.refresh().snapshot
    assert second is not None
    needles = [long[start : start + 60].encode() for start in range(70, 220, 30)]
    assert len(files_with(scene.folder / "store", needles)) == 1
    assert scene.forget("long").proof.places == ()
    assert files_with(scene.folder / "store", needles) == []
