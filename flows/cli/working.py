"""Commands that set a lineage up and move it on: demo, init, plan, update, refresh."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import DEFAULT_FILE, AsJson, LineageFile, named
from flows.cli.running import finish, run
from tasks.unfinished import TakeOver


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where everything goes; default: demo/ in PERENNIAL_HOME.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds initial weights and the order of data.")] = 0,
) -> None:
    """Keep a small model up to date on text this installation has; run again to continue it."""
    from flows.demo import run_demo

    finish(run_demo(folder, seed=seed), as_json=False)


def init(
    name: Annotated[str, typer.Argument(help="Name of the lineage.", callback=named)],
    file: Annotated[Path, typer.Option(help="Where to write the YAML.")] = DEFAULT_FILE,
    small: Annotated[
        bool, typer.Option("--small", help="A model that trains in minutes without a GPU.")
    ] = False,
) -> None:
    """Write a commented lineage YAML to start from."""
    from flows.template import render_template

    if file.exists():
        raise ValueError(f"{file} exists already: choose another --file, or remove it first")
    file.write_text(render_template(name, str(file), small=small), encoding="utf-8")
    typer.echo(f"wrote {file}: edit base and sources, then 'perennial plan {file}'")


def plan(lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Refresh, then print what the next update would train on, how long and at which rate."""
    from flows.update import update_model

    finish(run(update_model, lineage_file=lineage, dry_run=True), as_json=as_json)


def update(
    lineage: LineageFile = DEFAULT_FILE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    wait_seconds: Annotated[
        float,
        typer.Option(help="How long to wait while another update of the lineage runs.", min=0),
    ] = 0,
    take_over: Annotated[
        TakeOver,
        typer.Option(
            help="What to do with an unfinished update whose YAML has changed since: end and name "
            "the fields; go on under the new values; go on from its weights with a new schedule, "
            "moments as the recipe says or fresh; or discard it."
        ),
    ] = "refuse",
    branch_from: Annotated[
        str | None,
        typer.Option(
            metavar="UPDATE/step-N",
            help="Cool down from this checkpoint: the decay alone, on its update's own data.",
        ),
    ] = None,
    cooldown_tokens: Annotated[
        int | None,
        typer.Option(help="Length of that cool-down; default: as the recipe's decay.", min=1),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one whole update: refresh, plan, mix, train, check, decide, publish."""
    from flows.update import update_model
    from flows.update_planning import Wish

    try:
        Wish(take_over=take_over, branch_from=branch_from, cooldown_tokens=cooldown_tokens)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    outcome = run(
        update_model,
        lineage_file=lineage,
        dry_run=dry_run,
        take_over=take_over,
        branch_from=branch_from,
        cooldown_tokens=cooldown_tokens,
        wait_seconds=wait_seconds,
    )
    finish(outcome, as_json=as_json)


def refresh(lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Read what is new in the sources and mint a pending snapshot."""
    from flows.refresh import refresh_data

    finish(run(refresh_data, lineage_file=lineage), as_json=as_json)
