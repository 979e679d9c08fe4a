"""Commands that show what a lineage is and was, and list what nothing of it needs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import (
    DEFAULT_FILE,
    AsJson,
    DocumentIds,
    LineageFile,
    TextFiles,
    checked,
    readable,
)


def history(
    lineage: LineageFile = DEFAULT_FILE,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw the chain of versions, with what each changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Every state the lineage was in: what was done, by whom and why."""
    from flows.show import print_graph, print_history

    (print_graph if graph else print_history)(lineage, as_json=as_json)


def status(
    lineage: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LINEAGE]",
            help="The lineage's YAML file; default: lineage.yaml when there is one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The servers of 'perennial up', and a lineage: champion, pending data, who is updating.

    Ends with 1 when the servers are asked for and one of them does not run.
    """
    from flows.servers import print_ground

    if lineage is None and DEFAULT_FILE.exists():
        lineage = DEFAULT_FILE
    print_ground(checked(lineage) if lineage else None, as_json=as_json)


def who_saw(
    lineage: LineageFile = DEFAULT_FILE,
    ids: DocumentIds = None,
    texts: TextFiles = None,
    as_json: AsJson = False,
) -> None:
    """Where a document lies, which updates learned from it, and which versions know it."""
    from flows.who_saw import print_who_saw

    with readable(texts or ()) as files:
        print_who_saw(lineage, ids=ids or (), files=files, as_json=as_json)


def gc(
    lineage: LineageFile = DEFAULT_FILE,
    grace_hours: Annotated[
        float, typer.Option(help="Only what is older than this is deleted.", min=0)
    ] = 24.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it the objects are only listed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, or delete, what no state of the lineage refers to."""
    from flows.show import collect_garbage

    collect_garbage(lineage, grace_hours=grace_hours, delete=delete, as_json=as_json)
