"""The command line in clumsy, unlucky and hostile hands: one sentence, the right exit code."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.cli.arguments import readable
from tests.support.commands import Commands, Ended, limit_file_size
from tests.support.lineages import hub_directory
from tests.support.tiny_lineage import TinyLineage, source

LINEAGE = Path("store/lineages/tiny")


def assert_one_sentence(ended: Ended, code: int, message: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert re.search(message, ended.error), ended.error
    assert "--debug" not in ended.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repley": 1}, r"repley: unknown key; .* did you mean 'replay'\?"),
        ({"recipe": {"seq_len": "many"}}, r"recipe\.seq_len: must be a whole number, got 'many'"),
        ({"recipe": [1, 2]}, "recipe: expected a mapping, found a list"),
        ({"recipe": {"name": ["a"]}}, r"recipe\.name: \['a'\] is not a recipe; known are"),
        ({"base": "x"}, "base: expected a mapping, found a text"),
        ({"sources": "abc"}, "sources: expected a list, found a text"),
        ({"sources": []}, "sources is empty: name at least one"),
        ({"recipe": {"seq_len": 10**18}}, r"recipe\.seq_len 10+ is above .*embeddings 32: lower"),
        ({"replay": {"share": float("nan")}}, "must be a number at least 0 and below 1, got nan"),
        ({"recipe": {"schedule": {"eta_max": float("inf")}}}, "above 0 and below 1, got inf"),
        ({"sources": [{**source("prose"), "domain": "a/b"}]}, "domain 'a/b' is not a valid name"),
        ({"sources": [{**source("prose"), "domain": "\x1b[31m"}]}, r"domain '\\x1b\[31m' is not"),
        ({"name": "Tiny"}, "name 'Tiny' is not a valid name: expected 1 to 63 of a-z"),
        ({"compute": {"num_workers": 3}}, r"num_workers 3 does not divide .* 16: workers share"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_refused_before_anything_is_read(
    changes: dict[str, Any], message: str, empty_home: Commands, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.write(**changes)
    assert_one_sentence(empty_home.run("update", lineage.file), 2, message)
    assert not (empty_home.home / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("update", "/nowhere/lineage.yaml"), "no lineage file at /nowhere/lineage.yaml: "),
        (("update", "/"), "/ is a directory: name the lineage's YAML file, as in /lineage.yaml"),
    ],
)
def test_a_missing_yaml_is_a_usage_error(
    arguments: tuple[str, ...], message: str, empty_home: Commands
) -> None:
    assert_one_sentence(empty_home.run(*arguments), 2, message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote",),
        ("updat",),
        ("init", "My Model"),
        ("update", "--wait-seconds", "nan"),
        ("update", "--wait-seconds", "-5"),
        ("gc", "--grace-hours", "-1"),
    ],
)
def test_a_wrong_command_ends_with_usage(arguments: tuple[str, ...], empty_home: Commands) -> None:
    ended = empty_home.run(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("Usage: perennial")


def test_sources_without_files_are_nothing_to_do_and_say_so(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.write(sources=[source("prose"), source("ledger")])
    ended = perennial.run("update", lineage.file, "--json")
    assert (ended.code, ended.json["kind"]) == (0, "nothing to do")
    assert "no file matches the uri of any source" in ended.json["message"]
    told = f"source ledger: no file matches {lineage.folder}/ledger/*.jsonl"
    assert told in ended.json["warnings"]
    assert f"WARNING: {told}\n" in ended.err


def test_sources_that_have_never_matched_a_file_are_an_error(
    empty_home: Commands, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.write()
    message = r"no source has ever matched a file \(source ledger: .*\); fill in the uri of each"
    assert_one_sentence(empty_home.run("update", lineage.file), 1, message)


def test_a_plan_is_told_once_and_ends_with_what_could_not_be_read(
    lineage: TinyLineage, perennial: Commands
) -> None:
    with lineage.add("ledger").open("a", encoding="utf-8") as file:
        file.write("no JSON\n")
    lineage.write(
        sources=[source("ledger"), {**source("prose"), "uri": "misspelt/*.jsonl"}],
    )
    first = perennial.run("plan", lineage.file)
    assert first.code == 0, first.err
    assert first.out.count("against champion") == 1
    assert "against champion" not in first.err
    rejected = r"1 of \d+ documents rejected \(1 malformed_json; first: part-1\.jsonl:\d+\); all"
    missing = "source prose: no file matches .*/misspelt/"
    for told in (rejected, missing):
        assert len(re.findall(f"^WARNING: {told}", first.out, re.M)) == 1, first.out
        assert len(re.findall(f"WARNING: {told}", first.err)) == 1, first.err
    # The snapshot is pending, and nothing is read anew.
    again = perennial.run("plan", lineage.file, "--json").json["warnings"]
    assert any(re.match(rejected, warning) for warning in again)
    page = Path(perennial.run("update", lineage.file, "--json").json["report"])
    assert re.search(rejected, page.read_text(encoding="utf-8"))


CLOSED_PIPE = """
import logging, sys
from flows import cli
from flows.cli.running import finish
from flows.outcome import Outcome
from infra.log import set_up_logging

@cli.app.command()
def judge(kind: str) -> None:
    set_up_logging()
    for number in range(9):
        logging.getLogger("flows").info(f"line {number}")
    finish(Outcome(lineage="tiny", kind=kind, message="better"), as_json=False)

cli.main()
"""


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 3), ("AMBIGUOUS", 4)])
def test_the_exit_code_is_the_verdicts_though_nobody_reads_on(
    verdict: str, code: int, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PERENNIAL_HOME": str(tmp_path / "home")}
    ended = subprocess.run(
        [sys.executable, "-c", CLOSED_PIPE, "judge", verdict],
        stdout=writer,
        stderr=writer,
        env=environment,
        timeout=60,
    )
    os.close(writer)
    assert ended.returncode == code


def _other_seq_len(lineage: TinyLineage) -> None:
    lineage.write(recipe={"seq_len": 16})


def _other_model(lineage: TinyLineage) -> None:
    lineage.write(base={"model": {"vocab_size": 400}})


def _other_tokenizer(lineage: TinyLineage) -> None:
    hub_directory(lineage.folder / "base")
    lineage.write(base={"model": None, "directory": "base"})


def _no_model(lineage: TinyLineage) -> None:
    lineage.write(name="other", base={"model": None, "directory": "nowhere"})


def _broken_tokenizer(lineage: TinyLineage) -> None:
    hub_directory(lineage.folder / "base")
    (lineage.folder / "base" / "tokenizer.json").unlink()
    lineage.write(name="other", base={"model": None, "directory": "base"})


def _no_text(lineage: TinyLineage) -> None:
    (lineage.folder / "ledger" / "\x1b[31m.jsonl").write_bytes(b"\x1b[31m no JSON\n" * 200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_seq_len, "seq_len is 16, but the snapshots of tiny have 32 tokens a sample"),
        (_other_model, r"base\.model of lineage tiny was changed .*: vocab_size 400 \(.* 320\)"),
        (_other_tokenizer, "tiny has data of the tokenizer .*; start another lineage"),
        (_no_model, r"nowhere has no config\.json: expected a Hugging Face model directory"),
        (_broken_tokenizer, r"expected a tokenizer\.json in .*, found none"),
        (_no_text, r"source 'ledger' is refused: 200 of 360 .*malformed_json.*\\x1b\[31m\.jsonl"),
    ],
)
def test_what_does_not_fit_the_lineage_is_refused(
    change: Callable[[TinyLineage], None],
    message: str,
    lineage: TinyLineage,
    perennial: Commands,
) -> None:
    lineage.add("ledger")
    change(lineage)
    assert_one_sentence(perennial.run("update", lineage.file), 1, message)


@pytest.mark.parametrize(
    "pattern",
    [
        "snapshots/*/prose/holdout/*.mds",
        "snapshots/*/documents.parquet",
        "snapshots/*/manifest.json",
        "models/*/model.safetensors",
        "tokenizers/*/tokenizer.json",
        "updates/*/checkpoints/step-100/model-*.safetensors",
        "marks/*",
    ],
)
def test_a_flipped_byte_is_found_and_named(
    pattern: str, lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    path = sorted((perennial.home / LINEAGE).glob(pattern))[-1]
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x10
    path.write_bytes(body)
    name = re.escape(str(path.relative_to(perennial.home / "store")))
    ended = perennial.run("update", lineage.file)
    assert_one_sentence(ended, 1, f"{name} .*altered.*restore it from a copy")


def test_a_replayed_shard_with_a_flipped_byte_is_not_trained_on(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    lineage.write(replay={"share": 0.3})
    shard = next((perennial.home / LINEAGE).glob("snapshots/*/prose/train/*.mds"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert_one_sentence(perennial.run("update", lineage.file), 1, r"prose/train/.*was altered")


def test_gc_lists_and_then_deletes_what_nothing_needs(
    lineage: TinyLineage, perennial: Commands
) -> None:
    orphan = perennial.home / LINEAGE / "orphan"
    orphan.write_bytes(b"one")
    young = perennial.run("gc", lineage.file, "--json").json
    assert young == {"deleted": False, "bytes": 0, "keys": [], "unfinished_uploads": []}
    listed = perennial.run("gc", lineage.file, "--grace-hours", "0", "--json").json
    assert "lineages/tiny/orphan" in listed["keys"]
    assert not listed["deleted"]
    assert orphan.exists()
    deleted = perennial.run("gc", lineage.file, "--grace-hours", "0", "--delete")
    assert f"{len(listed['keys'])} objects, " in deleted.out
    assert "             3  lineages/tiny/orphan\n" in deleted.out
    assert not orphan.exists()
    assert perennial.run("gc", lineage.file, "--grace-hours", "0", "--json").json["keys"] == []
    assert perennial.run("update", lineage.file, "--json").json["kind"] == "nothing to do"


def test_a_full_disk_is_told_at_once_and_the_update_goes_on_when_there_is_room(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    full = perennial.run("update", lineage.file, prepare=partial(limit_file_size, 2000))
    assert_one_sentence(full, 1, "no room to write.*: file too large; make room .* it goes on")
    assert "tried" not in full.err
    assert perennial.run("update", lineage.file).code == 3


@pytest.mark.parametrize("home", ["/proc/perennial", "/dev/null/perennial"])
def test_a_home_that_cannot_be_written_is_told(home: str, lineage: TinyLineage) -> None:
    commands = Commands(lineage.folder / "commands" / "home")
    ended = commands.run("update", lineage.file, prepare=partial(_set_home, home))
    assert_one_sentence(ended, 1, f"the system refused at {home.rsplit('/', 1)[0]}")


def test_a_store_that_is_a_file_is_told(lineage: TinyLineage, perennial: Commands) -> None:
    shutil.rmtree(perennial.home / "store")
    (perennial.home / "store").touch()
    ended = perennial.run("update", lineage.file)
    assert_one_sentence(ended, 1, "the system refused at .*/store.*: not a directory")


def test_hostile_text_and_names_are_data(lineage: TinyLineage, perennial: Commands) -> None:
    folder = lineage.folder / "ledger"
    folder.mkdir()
    rows = (
        {
            "id": f"<script>alert({number})</script>\x1b[31m\u202e{number}",
            "work": f"<b>{number}\x1b]0;title\x07",
            "text": f"<|endoftext|> </s> \x1b[2J <img src=x onerror=alert({number})> and more" * 2,
        }
        for number in range(60)
    )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "part-1.jsonl").write_text(lines, encoding="utf-8")
    ended = perennial.run("update", lineage.file, "--json")
    assert ended.code in (0, 3, 4), ended.err
    assert "\x1b" not in ended.out + ended.err
    page = Path(ended.json["report"]).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_debug_shows_the_traceback(lineage: TinyLineage, perennial: Commands) -> None:
    ended = perennial.run("promote", "9", "--reason", "x", lineage.file, "--debug")
    assert ended.code == 1
    assert "Traceback" in ended.err


def _set_home(home: str) -> None:
    os.environ["PERENNIAL_HOME"] = home


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--take-over", "all"), "'all' is not one of 'refuse', 'continue', 'new-phase'"),
        (("--cooldown-tokens", "100"), "name its checkpoint with --branch-from"),
        (("--branch-from", "u/step-3", "--take-over", "continue"), "either branches from"),
    ],
)
def test_what_an_update_cannot_be_asked_for_ends_with_usage(
    arguments: tuple[str, ...], sentence: str, lineage: TinyLineage, empty_home: Commands
) -> None:
    ended = empty_home.run("update", lineage.file, *arguments)
    assert ended.code == 2
    assert sentence in " ".join(ended.err.split())


def test_a_text_of_standard_input_lies_in_no_file_that_a_kill_could_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a letter")))
    other = tmp_path / "other"
    with readable([Path("-"), other]) as (given, second):
        assert [given.read_bytes(), given.read_bytes()] == [b"a letter"] * 2
        assert given.stat().st_nlink == 0
        assert second == other
