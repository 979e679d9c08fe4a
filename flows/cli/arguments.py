"""Arguments and options that several commands have, and what they refuse."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer


def checked(file: Path) -> Path:
    """Refuse a YAML that cannot be used before Prefect is imported and its server is started."""
    from flows.lineage_yaml import load_lineage

    load_lineage(file)
    return file


def named(name: str) -> str:
    """Refuse a name that no lineage can have, as a wrong argument."""
    from storage.layout import check_name

    try:
        check_name(name, "lineage")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


def told(reason: str) -> str:
    """Refuse an empty reason in our words, before Prefect refuses it in its own."""
    if not reason.strip():
        raise ValueError("a decision needs a non-empty reason, for whoever reads the history later")
    return reason


@contextmanager
def readable(files: Sequence[Path]) -> Generator[tuple[Path, ...]]:
    """``files`` as paths that can be read from anywhere in this process; - is standard input.

    What comes by standard input lies in memory alone: killed in the middle, nothing is left of it.
    """
    with ExitStack() as opened:
        paths: list[Path] = []
        for file in files:
            if file == _STANDARD_INPUT:
                held = opened.enter_context(os.fdopen(os.memfd_create("text"), "wb", 0))
                held.write(sys.stdin.buffer.read())
                paths.append(Path(f"/proc/self/fd/{held.fileno()}"))
            else:
                paths.append(file.absolute())
        yield tuple(paths)


LineageFile = Annotated[
    Path,
    typer.Argument(
        metavar="LINEAGE", help="The lineage's YAML file.", show_default=True, callback=checked
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; recorded with the decision.", callback=told)
]
Version = Annotated[str, typer.Argument(help="Model version: its number, or its full name.")]

DocumentIds = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="Id of a document, as its source gives it."),
]
TextFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", metavar="FILE", help="File that holds a document's text; - is standard input."
    ),
]

_STANDARD_INPUT = Path("-")
DEFAULT_FILE = Path("lineage.yaml")
