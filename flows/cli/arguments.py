"""Arguments and options that several commands have, and what they refuse."""

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

DEFAULT_FILE = Path("lineage.yaml")
