"""``perennial who-saw``: of any document the places, the updates, and the versions that know it."""

import json
from pathlib import Path
from typing import Any, cast

from flows.who_saw import _lines  # pyright: ignore[reportPrivateUsage]
from storage.head import Head
from tasks.who_saw import Sighting
from tests.support.commands import Commands
from tests.support.tiny_lineage import TinyLineage


def asked(perennial: Commands, lineage: TinyLineage, *options: str | Path) -> Any:
    ended = perennial.run("who-saw", lineage.file, *options, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_what_was_learned_is_known_to_its_version_and_to_all_that_grew_from_it(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in lineage.add("ledger").read_text().splitlines()]
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    second = json.loads(ended.out)["version"]
    found = asked(perennial, lineage, *(option for row in rows for option in ("--id", row["id"])))
    row, new = next(each for each in zip(rows, found, strict=True) if each[1]["split"] == "train")
    assert [seen["version"] for seen in new["versions"]] == [second]
    assert new["versions"][0]["updates"] == [one["update"] for one in new["learned"]]
    assert (new["document"], new["domain"]) == (f"ledger/{row['id']}", "ledger")
    # By its text, whatever the line ends, it is the same place.
    text = tmp_path / "text.txt"
    text.write_text(row["text"].replace("\n", "\r\n"), newline="")
    assert asked(perennial, lineage, "--text", text) == [new]
    # Both versions know the old one, the second at least through the first.
    (old,) = asked(perennial, lineage, "--id", "prose/prose-1-0")
    assert old["split"] == "train"
    first = old["versions"][0]["version"]
    assert [seen["version"] for seen in old["versions"]] == [first, second]
    assert sum(one["exposures"] for one in old["learned"]) >= 1
    assert len(old["replay"]) >= 1


def test_a_held_out_document_was_seen_by_nobody_and_an_unknown_one_is_nowhere(
    first_version: tuple[TinyLineage, Commands],
) -> None:
    lineage, perennial = first_version
    names = [
        json.loads(line)["id"]
        for path in sorted((lineage.folder / "prose").glob("*"))
        for line in path.read_text().splitlines()
    ]
    options = [option for name in names for option in ("--id", name)]
    found = asked(perennial, lineage, *options)
    assert len(found) == len(names)
    held = [sighting for sighting in found if sighting["split"] == "holdout"]
    assert held
    assert all(not (each["learned"] or each["versions"] or each["replay"]) for each in held)
    assert asked(perennial, lineage, "--id", "prose-9-9") == []
    ended = perennial.run("who-saw", lineage.file, "--id", "prose-9-9")
    assert ended.out.strip() == "no snapshot of tiny has such a document"


def test_a_question_without_a_document_or_with_an_unreadable_file_says_what_to_give(
    first_version: tuple[TinyLineage, Commands], tmp_path: Path
) -> None:
    lineage, perennial = first_version
    ended = perennial.run("who-saw", lineage.file)
    assert (ended.code, ended.err.strip()) == (
        1,
        "error: expected a document to look for: give --id ID or --text FILE",
    )
    damaged = tmp_path / "damaged.txt"
    damaged.write_bytes(b"abc\xff")
    ended = perennial.run("who-saw", lineage.file, "--text", damaged)
    assert ended.code == 1
    assert "byte 3 is no UTF-8" in ended.err


def test_nothing_in_an_id_or_a_path_steers_the_terminal() -> None:
    sighting = Sighting(
        document="web/\x1b[31mred\u202e\nno update was trained on it",
        source="web",
        time="",
        uri="/data/a\x9b\r\n.jsonl",
        position=3,
        snapshot="s",
        domain="web",
        split="train",
        reason="",
        state="pending",
        likeness=1.0,
        learned=(),
        versions=(),
        replay=(),
    )
    told = _lines(sighting, cast("Head", None))
    assert all(line.isprintable() for line in told)
    assert len(told) == 3
    assert r"web/\x1b[31mred\u202e\nno update" in told[0]
