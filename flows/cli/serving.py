"""Commands that start and stop servers: serve, up, down."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import DEFAULT_FILE, checked


def serve(
    lineages: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LINEAGE...]", help="YAML files, or folders with YAML files."),
    ] = None,
) -> None:
    """Offer every flow of the lineages in Prefect's pages, run them by schedule and by button."""
    from flows.serve import serve as serve_lineages

    serve_lineages(lineages or [DEFAULT_FILE])


def up(
    lineages: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LINEAGE...]",
            help="What 'perennial serve' is to serve; default: the same as the last time.",
        ),
    ] = None,
    no_serve: Annotated[
        bool,
        typer.Option("--no-serve", help="Serve no lineage, and forget those of the last time."),
    ] = False,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            help="Ray nodes beside the head, on this machine; default: as the last time, or none.",
            min=0,
            max=16,
        ),
    ] = None,
) -> None:
    """Start the servers that are missing or sick: Prefect, MLflow, Ray; on this machine only."""
    from flows.servers import start_servers

    if no_serve and lineages:
        raise typer.BadParameter("name lineages to serve, or --no-serve, not both")
    files = [file if file.is_dir() else checked(file) for file in lineages or ()]
    start_servers(files if files or no_serve else None, ray_workers=ray_workers)


def down() -> None:
    """Stop the servers of 'perennial up'; databases, passwords and ports stay."""
    from flows.servers import stop_servers

    stop_servers()
