"""The servers of ``perennial up`` on the terminal."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.table import Table

from flows.output import say_table
from flows.show import print_status, status_of
from infra.log import set_up_logging
from infra.settings import Settings
from infra.stack import control
from infra.stack.state import SQLITE, StackFolder, read_state
from infra.stack.status import PartStatus, inspect, require
from infra.versions import check_security_floors


def start_servers(lineages: Sequence[Path] | None, *, ray_workers: int | None) -> None:
    """Start what is missing or sick, then say where everything is.

    Args:
        lineages: What is to be served, which may be nothing; None for that of the last time.
        ray_workers: Ray nodes beside the head; None for as many as the last time.

    Raises:
        StackError: Something does not start.
    """
    settings = Settings()
    set_up_logging(settings.log_level)
    check_security_floors()
    _make_mlflow_database(settings)
    parts = control.start(settings, lineages=lineages, ray_workers=ray_workers, tell=typer.echo)
    pages = {"prefect": "Prefect", "mlflow": "MLflow", "ray-head": "Ray"}
    typer.echo(f"all {len(parts)} parts are running\n")
    for part in parts:
        if part.part in pages:
            typer.echo(f"{pages[part.part]:>8}  {part.url}")
    typer.echo(f"log in with what is in {StackFolder(settings.home_path).secrets}")


def stop_servers() -> None:
    """Stop every process of the stack."""
    settings = Settings()
    stopped = control.stop(settings, tell=typer.echo)
    typer.echo("all servers are stopped" if stopped else "no server was running")


def print_ground(lineage_file: Path | None, *, as_json: bool) -> None:
    """The servers, and a lineage when one is given.

    Raises:
        typer.Exit: With 1 when servers that are to run, or were asked for alone, do not all run.
    """
    parts = inspect(Settings())
    is_healthy = bool(parts) and all(part.condition == "running" for part in parts)
    is_down = all(part.condition == "stopped" for part in parts)
    if as_json:
        facts = status_of(lineage_file) if lineage_file else {}
        facts["servers"] = [asdict(part) for part in parts]
        typer.echo(json.dumps(facts, indent=2, sort_keys=True))
    else:
        _print_parts(parts)
        if lineage_file is not None:
            print_status(lineage_file)
    if not is_healthy and not (is_down and lineage_file is not None):
        raise typer.Exit(1)


def require_prefect() -> None:
    """Refuse to run a flow when the Prefect server that it is to use, ours, does not answer.

    Raises:
        StackError: Says what to do.
    """
    settings = Settings()
    stack = settings.stack
    if stack is not None and os.environ.get("PREFECT_API_URL") == stack.prefect_api_url:
        require(settings, "prefect")


def _print_parts(parts: Sequence[PartStatus]) -> None:
    if not parts:
        typer.echo("servers: none; start them with 'perennial up'")
        return
    table = Table(title="servers", title_justify="left")
    for column in ("part", "condition", "pid", "page", "since", "log"):
        table.add_column(column, overflow="fold")
    for part in parts:
        pid = str(part.pid or "-")
        table.add_row(part.part, part.condition, pid, part.url or "-", part.since or "-", part.log)
    say_table(table)


def _make_mlflow_database(settings: Settings) -> None:
    """Have MLflow's SQLite file made in the one way that survives being killed."""
    uri = settings.mlflow_database_uri
    remembered = read_state(StackFolder(settings.home_path)).databases.get("mlflow", SQLITE)
    if (
        remembered == SQLITE
        and uri.startswith("sqlite:")
        and not Path(uri.removeprefix("sqlite:///")).exists()
    ):
        # MLflow takes seconds to import.
        from storage.mlflow_client import mlflow_client  # noqa: PLC0415

        typer.echo("making MLflow's database")
        mlflow_client(uri).search_experiments(max_results=1)
