"""What commands print. That nobody reads it any more (``| head``) stops no work."""

import shutil
import sys
from typing import TYPE_CHECKING

import typer

from infra.log import let_go
from tasks.documents import printable

if TYPE_CHECKING:
    from rich.table import Table

_NAME_LETTERS = 1000
_WIDTH_WITHOUT_TERMINAL = 160
"""Wide enough for whole sentences."""


def say(text: str = "", *, err: bool = False) -> None:
    """Print a line; one that its reader does not want goes nowhere, and so does what follows."""
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        flush()


def say_table(table: "Table") -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console  # noqa: PLC0415  not for commands without a table

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_WITHOUT_TERMINAL)
    # Not printed by rich, which ends the process when the reader is gone.
    with console.capture() as captured:
        console.print(table)
    say(captured.get().rstrip("\n"))


def page_width() -> int:
    """Columns of the terminal, or of a page where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL


def can_print(text: str) -> bool:
    """Whether standard output has every character of ``text``."""
    return as_printable(text) == text


def as_printable(text: str) -> str:
    """``text`` with a question mark for what standard output has no character for."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, errors="replace").decode(encoding)


def as_name(text: str) -> str:
    """An id or a path, which is other people's text: nothing in it steers a terminal."""
    return printable(text, _NAME_LETTERS)


def flush() -> None:
    """Flush both streams; one that its reader has closed goes nowhere from here on."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            let_go(stream)
