"""The command that takes documents down: forget."""

from typing import Annotated

import typer

from flows.cli.arguments import (
    DEFAULT_FILE,
    AsJson,
    DocumentIds,
    LineageFile,
    TextFiles,
    readable,
)
from flows.cli.running import finish, run


def forget(
    lineage: LineageFile = DEFAULT_FILE,
    ids: DocumentIds = None,
    texts: TextFiles = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Share of a text that another one must repeat to go with it; default: as the "
            "YAML's near_duplicates say.",
            min=0,
            max=1,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")
    ] = False,
    wait_seconds: Annotated[
        float, typer.Option(help="How long to wait while an update of the lineage runs.", min=0)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Take documents out of everything, keep them out, and search for what is left of them.

    Documents that nearly repeat one and text that was made from one go with it. Without --id and
    --text a takedown that was begun is finished.
    """
    from flows.forget import forget_documents

    # A text is no parameter: Prefect would keep it.
    with readable(texts or ()) as files:
        outcome = run(
            forget_documents,
            lineage_file=lineage,
            ids=tuple(ids or ()),
            text_files=files,
            threshold=threshold,
            dry_run=dry_run,
            wait_seconds=wait_seconds,
        )
    finish(outcome, as_json=as_json)
