"""What people see of a training: the plan drawn before it, where its time went after it."""

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.table import Table

from flows.output import say, say_table
from flows.plan_view import can_show_blocks
from tests.support.commands import Commands, kill_at
from tests.support.mlflow_tables import logged_steps_of
from tests.support.tiny_lineage import TinyLineage


def test_a_plan_is_drawn_on_the_terminal_and_on_the_runs_page_and_tells_the_time_it_will_take(
    lineage: TinyLineage, perennial: Commands, prefect_server: str
) -> None:
    lineage.add("ledger")
    planned = perennial.run("plan", lineage.file)
    assert planned.code == 0, planned.err
    assert "learning rate over tokens: cosine, peak 0.02" in planned.out
    assert "at the " in planned.out
    assert " tokens/s of the last update" in planned.out

    with urlopen(f"{prefect_server}/artifacts/tiny-plan/latest", timeout=30) as answer:
        page = json.load(answer)["data"]
    assert "```text\nupdate " in page
    assert "decay from" in page


def test_where_the_time_went_is_shown_by_status_and_in_mlflow(
    first_version: tuple[TinyLineage, Commands],
) -> None:
    lineage, perennial = first_version
    status = perennial.run("status", lineage.file)
    assert "last training  1-" in status.out
    assert ": goodput " in status.out
    for name in ("productive_share", "lost_seconds", "start_seconds"):
        assert logged_steps_of(perennial.home, "tiny", f"goodput/{name}") == [100]


def test_an_update_that_was_killed_tells_its_tokens_and_then_what_the_kill_has_cost(
    lineage: TinyLineage, perennial: Commands
) -> None:
    lineage.add("ledger")
    assert perennial.run("update", lineage.file, prepare=kill_at("training.loop.lr_at", 50)).code
    unfinished = perennial.run("status", lineage.file).out
    assert " of 30,720 tokens (" in unfinished
    ended = perennial.run("update", lineage.file, "--json")
    goodput = ended.json["details"]["goodput"]
    assert goodput["lost_seconds"] > 0
    assert goodput["restore_seconds"] > 0
    assert f"goodput {goodput['productive_share']:.0%}: productive" in ended.err
    # The plan, and what was read, are said once before the training.
    assert ended.err.count("refresh: ") == 1
    assert ended.err.count("learning rate over tokens") == 1


def test_a_refresh_says_what_it_found_once(lineage: TinyLineage, perennial: Commands) -> None:
    lineage.add("ledger")
    ended = perennial.run("refresh", lineage.file)
    assert ended.out.startswith("snapshot ")
    assert ended.out.splitlines()[0] not in ended.err


def test_a_refresh_tells_where_its_page_is_which_a_later_run_makes_if_it_is_not_there(
    lineage: TinyLineage, perennial: Commands, prefect_server: str
) -> None:
    lineage.add("ledger")
    report = perennial.run("refresh", lineage.file).out.splitlines()[1].removeprefix("report: ")
    html = Path(report).read_text(encoding="utf-8")
    assert "<title>tiny: refresh " in html
    assert report in perennial.run("status", lineage.file).out.replace("\n", "")
    with urlopen(f"{prefect_server}/artifacts/tiny-refresh/latest", timeout=30) as answer:
        page = json.load(answer)["data"]
    assert f"- report: `{report}`" in page
    assert "  documents read\n" in page

    Path(report).unlink()
    assert perennial.run("refresh", lineage.file).code == 0
    assert Path(report).read_text(encoding="utf-8") == html


@pytest.mark.parametrize(
    ("encoding", "can"), [("utf-8", True), ("ascii", False), ("cp1252", False)]
)
def test_block_characters_are_drawn_where_they_can_be_shown(encoding: str, can: bool) -> None:
    assert can_show_blocks(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == can


def test_what_is_printed_after_its_reader_has_gone_goes_nowhere_and_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    table = Table("a")
    table.add_row("b")
    with os.fdopen(writer, "w") as closed, redirect_stdout(closed):
        say("first")
        say_table(table)
        say("last")
        closed.flush()
