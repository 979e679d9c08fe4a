from dataclasses import replace
from pathlib import Path

import pytest

import flows.demo
from flows.lineage_yaml import load_lineage
from flows.show import installed_command
from storage.head import Head, VersionRecord

HEAD = Head(
    lineage="demo", number=1, action="init", by="me", reason="", written_at="", lease_token=0
)
RECORD = VersionRecord(
    version="1-a",
    update="a",
    verdict="PASS",
    decision="published",
    parent=None,
    trunk=None,
    snapshots=(),
    replay=None,
    on_head=1,
)


def titles(home: Path, judged: int) -> list[str]:
    files = flows.demo._write_yamls(home, seed=0)
    head = replace(HEAD, versions=(RECORD,) * judged)
    return [scene.title.split(":")[0] for scene in flows.demo._scenes(home, files, head)]


def test_the_first_run_tells_the_whole_story_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    whole = ["version 1", "update A", "update B"]
    assert titles(tmp_path, 0) == whole
    assert titles(tmp_path, 1) == whole[1:]
    assert titles(tmp_path, 2) == whole[2:]


def test_a_later_run_deals_out_the_next_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def harvest(domain: str, part: int, folder: Path, *, part_chars: int) -> Path | None:
        asked.append((domain, part))
        return folder / f"part-{part:02d}.jsonl.gz" if domain == "code" else None

    monkeypatch.setattr(flows.demo, "harvest_part", harvest)
    folder = tmp_path / "sources" / "code"
    folder.mkdir(parents=True)
    (folder / "part-01.jsonl.gz").touch()
    assert titles(tmp_path, 3) == ["the next part"]
    assert asked == [("prose", 1), ("code", 2)]


def test_when_nothing_is_left_the_story_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.demo, "harvest_part", lambda *_args, **_options: None)
    assert titles(tmp_path, 3) == []


def test_both_lineages_of_the_demo_differ_in_replay_alone(tmp_path: Path) -> None:
    files = flows.demo._write_yamls(tmp_path, seed=3)
    with_replay = load_lineage(files["with replay"])
    without = load_lineage(files["without replay"])
    assert with_replay.recipe.seed == 3
    assert without.replay.share == 0.0
    assert replace(without, replay=with_replay.replay) == with_replay


def test_a_command_is_named_so_that_it_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "perennial"
    script.touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert installed_command("perennial") == str(script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed_command("perennial") == "perennial"
