"""What a lineage looks like now and how it got there. Read-only, except for gc."""

import json
import shutil
import sys
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.chain import read_chain
from flows.ground import Ground, open_ground, plan_request, whoami
from flows.history_graph import ASCII, UNICODE, draw
from flows.output import as_printable, can_print, page_width, say, say_table
from infra.progress import counted, progress_line
from infra.settings import Settings
from storage.gc import abort_unfinished, delete_garbage, find_garbage, find_unfinished
from storage.head import Head, VersionRecord, history, read_head
from storage.layout import Layout
from storage.lease import Lease
from storage.lease_record import is_held, read_lease
from storage.manifest import load
from storage.objects import open_store
from storage.question import read_question
from storage.snapshots import read_snapshot
from tasks.judge.verdict import DomainRow, VerdictReport
from tasks.reporting.page import report_key, verdict_key
from tasks.unfinished import interrupted
from tasks.update_plan import load_plan
from training.goodput import settled
from training.metrics import read_last_rows
from training.speed import Speed


def print_history(lineage_file: Path, *, as_json: bool) -> None:
    """Every head of the chain, oldest first."""
    ground = open_ground(lineage_file)
    heads = history(ground.store, ground.layout)
    if as_json:
        say(json.dumps([asdict(head) for head in heads], indent=2, sort_keys=True))
        return
    if not heads:
        say(f"lineage {ground.lineage.name} has no history yet: run 'perennial update'")
        return
    say_table(_history_table(heads))


def print_graph(lineage_file: Path, *, as_json: bool) -> None:
    """The chain of versions with their deltas, newest first."""
    ground = open_ground(lineage_file)
    chain = read_chain(ground.store, ground.layout, history(ground.store, ground.layout))
    if as_json:
        say(json.dumps(asdict(chain), indent=2, sort_keys=True))
        return
    if not chain.nodes:
        say(f"lineage {chain.lineage} has no version yet: run 'perennial update'")
        return
    marks = UNICODE if can_print("".join(astuple(UNICODE))) else ASCII
    say(as_printable(draw(chain, width=page_width(), marks=marks)))


def print_status(lineage_file: Path) -> None:
    """Champion, pending data, versions that wait for a person, who is updating."""
    for name, value in status_of(lineage_file).items():
        shown = _shown(value)
        say(f"{name.replace('_', ' '):>18}  {shown}")


def status_of(lineage_file: Path) -> dict[str, Any]:
    """What ``print_status`` prints, by name."""
    ground = open_ground(lineage_file)
    lease = read_lease(ground.store, ground.layout)
    head = read_head(ground.store, ground.layout)
    facts = _facts(ground, head)
    facts |= {"updating": "", "training": "", "unfinished": None}
    if lease and is_held(lease):
        facts["updating"] = f"{lease.holder} ({lease.note or 'starting'})"
        facts["training"] = _training(ground, lease.note)
    elif head is not None:
        facts["unfinished"] = _unfinished(ground, head, lease.unfinished if lease else "")
    return facts


def collect_garbage(lineage_file: Path, *, grace_hours: float, delete: bool, as_json: bool) -> None:
    """List, or delete, what no head refers to and is older than the grace time."""
    ground = open_ground(lineage_file)
    store, layout, grace_seconds = ground.store, ground.layout, grace_hours * 3600
    if delete:
        # Nobody may adopt what is being removed.
        with Lease.acquire(store, layout, whoami()):
            garbage = find_garbage(store, layout, grace_seconds=grace_seconds)
            uploads = find_unfinished(store, layout, grace_seconds=grace_seconds)
            delete_garbage(store, garbage)
            abort_unfinished(store, layout, grace_seconds=grace_seconds)
    else:
        garbage = find_garbage(store, layout, grace_seconds=grace_seconds)
        uploads = find_unfinished(store, layout, grace_seconds=grace_seconds)
    size = sum(info.size for info in garbage)
    if as_json:
        keys = [info.key for info in garbage]
        found = {"deleted": delete, "bytes": size, "keys": keys, "unfinished_uploads": uploads}
        say(json.dumps(found))
        return
    for info in garbage:
        say(f"{info.size:>14,}  {info.key}")
    for key in uploads:
        say(f"{'unfinished':>14}  {key}")
    done = "deleted" if delete else "would be deleted with --delete"
    also = f" and {len(uploads):,} unfinished uploads" if uploads else ""
    say(f"{len(garbage):,} objects, {size / 1e6:,.1f} MB{also} {done}")


def print_demo_summary(lineage_file: Path, settings: Settings) -> None:
    """What happened in the demo: one row a version and domain, the history, where to look next."""
    ground = open_ground(lineage_file)
    heads = history(ground.store, ground.layout)
    say()
    say_table(_versions_table(ground, heads[-1]))
    say_table(_history_table(heads))
    newest = heads[-1].versions[-1]
    home = settings.home_path
    say(f"\nreport of {newest.version}: {report_uri(ground, newest)}")
    say("look at it in MLflow:   " + mlflow_command(settings))
    prefect, perennial = installed_command("prefect"), installed_command("perennial")
    say(f"look at it in Prefect:  PREFECT_HOME={home / 'prefect'} {prefect} server start")
    say(f"look at the lineage:    PERENNIAL_HOME={home} {perennial} history {lineage_file}")


def installed_command(name: str) -> str:
    """A command of this installation, as the user's shell finds it.

    Its bare name, or its whole path where the environment that it lies in is not active.
    """
    script = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found is not None and Path(found) == script else str(script)


def mlflow_command(settings: Settings) -> str:
    """The command that opens MLflow's page on what the settings point at."""
    mlflow = installed_command("mlflow")
    return f"{mlflow} ui --host 127.0.0.1 --backend-store-uri {settings.tracking_uri}"


def report_uri(ground: Ground, record: VersionRecord) -> str:
    """Where a version's report can be opened."""
    return ground.place_of(report_key(ground.layout, record.update, record.judged_on))


def current_head(lineage: str, settings: Settings) -> Head | None:
    """The newest head of a lineage on this ground."""
    return read_head(open_store(settings.store_uri), Layout(lineage))


def _facts(ground: Ground, head: Head | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"lineage": ground.lineage.name, "store": ground.store.uri}
    if head is None:
        return {**facts, "head": "none yet: run 'perennial update'"}
    pending = [record.id for record in head.snapshots if record.state == "pending"]
    waiting = [record for record in head.versions if record.decision == "awaiting"]
    slices = [
        piece
        for name in pending
        for piece in read_snapshot(ground.store, ground.layout, name).domains
    ]
    return {
        **facts,
        "head": f"{head.number} ({head.action} at {head.written_at} by {head.by})",
        "champion": head.champion,
        "replay": head.replay,
        "suite": head.suite,
        "pending_snapshots": pending,
        "refresh_reports": _refresh_reports(ground, pending),
        "pending_tokens": f"{sum(piece.train_tokens for piece in slices):,}",
        "held_snapshots": [record.id for record in head.snapshots if record.state == "held"],
        "waiting_for_a_person": [record.version for record in waiting],
        "questions": {
            record.version: question.link
            for record in waiting
            if (question := read_question(ground.store, ground.layout, record.update))
        },
        "last_training": _goodput(ground, head),
    }


def _refresh_reports(ground: Ground, snapshots: list[str]) -> list[str]:
    """Where the pages of these snapshots can be opened, as far as they have one."""
    keys = [ground.layout.refresh_report(snapshot) for snapshot in snapshots]
    return [ground.place_of(key) for key in keys if ground.store.exists(key)]


def _unfinished(ground: Ground, head: Head, update: str) -> dict[str, Any] | None:
    """How far the update came that the next run will go on with; None when there is none."""
    try:
        found = interrupted(ground.store, ground.layout, head, plan_request(ground), update)
    except ValueError:
        # The YAML does not fit the lineage, which 'perennial plan' explains.
        return None
    if found is None:
        return None
    plan, step = found.plan, max(found.step, found.plan.train.first_step)
    saved = found.step and f"{plan.train.checkpoint_prefix}/step-{found.step}"
    return {
        "update": plan.id,
        "step": step,
        "steps": plan.train.num_steps,
        "tokens": step * plan.train.global_batch_tokens,
        "total_tokens": plan.total_tokens,
        "checkpoint": saved or plan.train.initial if step else None,
        "refused": found.refusal() if found.changes else None,
    }


def _training(ground: Ground, update: str) -> str:
    """How far the training of an update is and how fast, as the journal says; empty before it."""
    rows = read_last_rows(ground.store, ground.layout.metrics(update)) if update else []
    if not rows:
        return ""
    plan = load_plan(ground.store, ground.layout, update)
    speed = Speed(plan.train.global_batch_tokens)
    speed.add(rows)
    line = progress_line(
        speed.tokens, plan.total_tokens, "tokens", rate=speed.tokens_per_second, note=speed.note
    )
    return line if speed.tokens < plan.total_tokens else f"{counted(speed.tokens)} tokens, all"


def _goodput(ground: Ground, head: Head) -> str:
    """Where the time of the newest update's training went; empty when that was not kept."""
    if not head.versions:
        return ""
    newest = head.versions[-1]
    account = settled(ground.store, ground.layout, newest.update)
    return f"{newest.version}: {account.in_words()}" if account is not None else ""


def _shown(value: Any) -> str:
    """A fact of the status for people."""
    if isinstance(value, list):
        return ", ".join(value) or "-"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, dict) and "update" not in value:
        return ", ".join(f"{name} on {link}" for name, link in value.items()) or "-"
    if isinstance(value, dict):
        done = progress_line(value["tokens"], value["total_tokens"], "tokens", rate=0)
        goes_on = value["refused"] or "'perennial update' goes on with it"
        checkpoint = value["checkpoint"] or "(none yet)"
        return f"{value['update']}, {done}, newest checkpoint {checkpoint}; {goes_on}"
    return str(value or "-")


def _history_table(heads: list[Head]) -> Table:
    table = Table(title=f"history of {heads[0].lineage}", title_justify="left")
    for column in ("head", "when", "what", "champion", "by", "why"):
        table.add_column(column, overflow="fold")
    for head in heads:
        table.add_row(
            str(head.number),
            head.written_at,
            head.action,
            head.champion or "-",
            head.by,
            head.reason,
        )
    return table


def _versions_table(ground: Ground, head: Head) -> Table:
    table = Table(title="what happened (held-out nats per token)", title_justify="left")
    for column in ("version", "domain", "before", "after", "difference", "margin", "verdict"):
        table.add_column(column, justify="left" if column in ("version", "domain") else "right")
    for record in head.versions:
        key = verdict_key(ground.layout, record.update, record.judged_on)
        if not ground.store.exists(key):
            continue
        report = load(ground.store, key, VerdictReport)
        tested = [row for row in report.rows if row.test != "shown"]
        for index, row in enumerate(tested):
            verdict = f"{report.verdict} ({record.decision})" if index == 0 else ""
            table.add_row(record.version if index == 0 else "", *_cells(row), verdict)
        table.add_section()
    return table


def _cells(row: DomainRow) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        f"{row.domain} ({row.role}, against {row.against})",
        number(row.champion_nats_per_token, ".3f"),
        number(row.candidate_nats_per_token, ".3f"),
        number(row.difference, "+.3f"),
        number(row.margin, "+.3f"),
    )
