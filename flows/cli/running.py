"""How a command runs a flow, and how it ends."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from flows.output import say

if TYPE_CHECKING:
    from flows.outcome import Outcome


def run(flow: Callable[..., Any], **parameters: Any) -> "Outcome":
    """Run a flow here and now, against the configured Prefect server or a temporary one."""
    from flows.drain import end_well_on_sigterm
    from flows.servers import require_prefect
    from flows.temporary_server import start_temporary_server

    require_prefect()
    end_well_on_sigterm()
    start_temporary_server()
    return flow(**parameters)


def finish(outcome: "Outcome", *, as_json: bool) -> None:
    """Print what a flow ended with, and end the command with its exit code."""
    say(outcome.to_json() if as_json else f"{outcome.text}\n{outcome.chart}".rstrip("\n"))
    raise typer.Exit(outcome.exit_code)
