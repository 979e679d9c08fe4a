"""The command that takes documents down: forget."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import DEFAULT_FILE, AsJson, LineageFile
from flows.cli.running import finish, run

_STANDARD_INPUT = Path("-")


def forget(
    lineage: LineageFile = DEFAULT_FILE,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Id of a document, as its source gives it."),
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="File that holds a document's text; - is standard input.",
        ),
    ] = None,
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
    with tempfile.TemporaryDirectory() as scratch:
        files = [_file_of(file, Path(scratch)) for file in texts or ()]
        outcome = run(
            forget_documents,
            lineage_file=lineage,
            ids=tuple(ids or ()),
            text_files=tuple(files),
            threshold=threshold,
            dry_run=dry_run,
            wait_seconds=wait_seconds,
        )
    finish(outcome, as_json=as_json)


def _file_of(file: Path, scratch: Path) -> Path:
    if file != _STANDARD_INPUT:
        return file.absolute()
    path = scratch / "standard-input"
    path.touch(mode=0o600)
    path.write_bytes(sys.stdin.buffer.read())
    return path
