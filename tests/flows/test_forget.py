"""``perennial forget``: of what a version has learned, nothing is left but the version."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from storage.head import read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands, kill_at
from tests.support.tiny_lineage import TinyLineage
from tests.tasks.forget.scene import files_with, spellings
from training.tokenizer import fetch_tokenizer

LAYOUT = Layout("tiny")
NEAR = {"near_duplicates": {"ngram": 5}}


def planted(number: int, *, changed: int = 0) -> str:
    """Words that stand nowhere else, one of them twice, as an item of a task wants it.

    The first ``changed`` of them are others than without.
    """
    rng, other = random.Random(number), random.Random(number + 10**6)
    words = [f"zq{rng.getrandbits(20):x}" for _ in range(60)]
    begun = [f"yk{other.getrandbits(20):x}" for _ in range(changed)]
    return " ".join([*begun, *words[changed:], "and", words[40], "again"])


def add(lineage: TinyLineage, name: str, texts: dict[str, str]) -> None:
    path = lineage.folder / "ledger" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"id": one, "work": f"work-{one}", "text": text} for one, text in texts.items())
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def asked(perennial: Commands, lineage: TinyLineage, *options: str | Path) -> Any:
    ended = perennial.run("who-saw", lineage.file, *options, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def needles_of(perennial: Commands, tmp_path: Path, *texts: str) -> list[bytes]:
    store = LocalObjects(perennial.home / "store")
    head = read_head(store, LAYOUT)
    assert head is not None
    assert head.tokenizer is not None
    tokenizer = fetch_tokenizer(store, head.tokenizer, tmp_path / "tokenizer")
    return [piece for text in texts for piece in spellings(text, tokenizer)]


def test_a_learned_document_is_forgotten_everywhere_and_its_versions_are_marked(
    lineage: TinyLineage, perennial: Commands, tmp_path: Path
) -> None:
    lineage.write(**NEAR)
    lineage.add("ledger")
    texts = {f"planted-{number}": planted(number) for number in range(24)}
    add(lineage, "planted.jsonl", texts)
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    second = ended.json["version"]
    seen = {name: asked(perennial, lineage, "--id", name)[0] for name in texts}
    trained = next(name for name, one in seen.items() if one["split"] == "train")
    held = next(name for name, one in seen.items() if one["split"] == "holdout")
    needles = needles_of(perennial, tmp_path, texts[trained], texts[held])
    # In the shards, the items made of held-out text, and the table of documents.
    names = [f"{name}{end}".encode() for name in (trained, held) for end in "\"'#,"]
    assert len(files_with(perennial.home, needles)) >= 3
    assert len(files_with(perennial.home, names)) >= 3
    before = {path: path.read_bytes() for path in (perennial.home / "store").rglob("*.json")}
    dry = perennial.run(
        "forget", lineage.file, "--id", trained, "--id", held, "--dry-run", "--json"
    )
    assert (dry.code, dry.json["kind"]) == (0, "planned")
    assert {one["document"] for one in dry.json["details"]["documents"]} == {
        f"ledger/{trained}",
        f"ledger/{held}",
    }
    assert dry.json["details"]["versions"] == [second]
    assert len(dry.json["details"]["objects"]) >= 6
    # The page of the refresh is made anew.
    assert any("/reports/refresh-" in key for key in dry.json["details"]["objects"])
    assert before == {
        path: path.read_bytes() for path in (perennial.home / "store").rglob("*.json")
    }
    (tmp_path / "text").write_text(texts[held])
    done = perennial.run(
        "forget", lineage.file, "--id", trained, "--text", tmp_path / "text", "--json"
    )
    assert (done.code, done.json["kind"]) == (0, "done"), done.err
    assert files_with(perennial.home, needles) == []
    (takedown,) = done.json["details"]["takedowns"]
    assert done.json["warnings"] == []
    assert takedown["proof"]["objects"] > 50
    # Among them what hangs on the runs of MLflow.
    assert takedown["proof"]["local_files"] >= 2
    assert takedown["proof"]["windows"] > 20
    # Prefect's own folder lies elsewhere in these tests; MLflow's database and artifacts do not.
    assert files_with(perennial.home, names) == []
    (sighting,) = asked(perennial, lineage, "--text", tmp_path / "text")
    assert (sighting["reason"], sighting["uri"]) == ("forgotten", "")
    (tmp_path / "text").write_text(texts[trained])
    (sighting,) = asked(perennial, lineage, "--text", tmp_path / "text")
    assert [one["version"] for one in sighting["versions"]] == [second]
    assert marks(perennial) == {second: takedown["id"]}
    near = {"copy": texts[trained], "near": planted(int(held.rpartition("-")[2]), changed=2)}
    add(lineage, "again.jsonl", near)
    lineage.add("ledger", 2)
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    assert asked(perennial, lineage, "--id", "copy")[0]["reason"] == "duplicate"
    assert asked(perennial, lineage, "--id", "near")[0]["reason"] == "near_duplicate"
    assert files_with(perennial.home / "store", needles) == []


def marks(perennial: Commands) -> dict[str, str]:
    """The tag that says so, by version."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{perennial.home}/mlflow/mlflow.db")
    return {
        found.tags["perennial.version"]: found.tags["perennial.saw_forgotten"]
        for found in client.search_model_versions("name='tiny'")
        if "perennial.saw_forgotten" in found.tags
    }


@pytest.mark.parametrize("again", [(), ("--id", "prose-1-0")])
def test_what_was_begun_and_killed_lets_nothing_else_work_and_is_finished_and_told(
    lineage: TinyLineage, perennial: Commands, again: tuple[str, ...]
) -> None:
    held = Layout("tiny")
    killed = perennial.run(
        "forget",
        lineage.file,
        "--id",
        "prose-1-0",
        prepare=kill_at("tasks.forget.sweep.purge_snapshot"),
    )
    assert killed.code == -9
    for command in ("update", "refresh"):
        ended = perennial.run(command, lineage.file)
        assert ended.code == 1
        assert "was begun and is not done" in ended.error
        assert "run 'perennial forget' with the lineage's YAML alone" in ended.error
    store = LocalObjects(perennial.home / "store")
    assert len(list(store.list(held.begun_takedowns))) == 1
    ended = perennial.run("forget", lineage.file, *again, "--json")
    # Four sentences of a small grammar: others say the like.
    assert ended.json["kind"] in ("done", "left over")
    (told,) = ended.json["details"]["takedowns"]
    assert told["proof"]["objects"] > 10
    assert list(store.list(held.begun_takedowns)) == []
    ended = perennial.run("forget", lineage.file, "--id", "prose-1-0")
    assert (ended.code, "forgotten before" in ended.out) == (0, True)
    assert perennial.run("update", lineage.file).code == 0
    history = perennial.run("history", lineage.file)
    assert "forget" in history.out


def test_a_document_of_which_no_text_was_kept_needs_a_person_and_its_twin_does_not(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.write(curate={"domains": {"ledger": {"paragraphs": {}}}})
    lineage.add("ledger")
    first, line = planted(1), planted(2)
    texts = {"copied": first, "copy": first, "lines": f"{line}\n{planted(3)}"}
    add(lineage, "planted.jsonl", texts | {"repeats": f"{line}\nand little else"})
    assert perennial.run("refresh", lineage.file).code == 0
    ended = perennial.run("who-saw", lineage.file, "--id", "copy")
    assert "ledger/copied in snapshot" in ended.out
    assert ", which ledger/copy repeats" in ended.out
    ended = perennial.run("forget", lineage.file, "--id", "copy", "--json")
    assert (ended.code, ended.json["warnings"]) == (0, [])
    assert ended.json["details"]["takedowns"][0]["documents"] == 2
    options = "forget", lineage.file, "--id", "repeats"
    dry = perennial.run(*options, "--dry-run", "--json")
    assert (dry.code, dry.json["kind"]) == (0, "planned")
    assert "of ledger/repeats, dropped as paragraph_duplicates, no text" in dry.json["message"]
    ended = perennial.run(*options, "--json")
    assert (ended.code, ended.json["kind"]) == (4, "left over")
    for told in (dry, ended):
        (warning,) = told.json["warnings"]
        assert warning.startswith("the text of 1 document was not kept: dropped as paragraph_")
        assert warning.endswith("they can be found by --text FILE only")


def test_a_question_without_a_document_or_with_an_odd_threshold_says_what_to_give(
    first_version: tuple[TinyLineage, Commands],
) -> None:
    lineage, perennial = first_version
    for options in ((), ("--dry-run",)):
        ended = perennial.run("forget", lineage.file, *options)
        assert ended.code == 1
        assert ended.error == ("error: expected a document to forget: give --id ID or --text FILE")
    ended = perennial.run("forget", lineage.file, "--id", "x", "--threshold", "0.5", "--dry-run")
    assert ended.code == 1
    assert "the lineage has no near_duplicates" in ended.error
    ended = perennial.run("forget", lineage.file, "--id", "nowhere", "--dry-run", "--json")
    assert (ended.code, ended.json["details"]["documents"]) == (0, [])
