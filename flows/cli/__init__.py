"""The command line: ``perennial``. Thin over the flows; heavy imports happen inside the commands.

The commands lie in modules by what they are about; this one says which there are, and is the
process boundary.

Exit codes: 0 done or nothing to do, 2 usage, 3 verdict FAIL, 4 needs a person, 1 anything else.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer

from flows.cli.deciding import promote, reject, rollback, unhold
from flows.cli.forgetting import forget
from flows.cli.judging import check
from flows.cli.looking import gc, history, status, who_saw
from flows.cli.merging import graft
from flows.cli.serving import down, serve, up
from flows.cli.working import demo, init, plan, refresh, update
from flows.output import flush, say

app = typer.Typer(
    name="perennial",
    help="Keep a language model up to date: refresh, mix with replay, train, check, publish.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: tuple[Callable[..., Any], ...] = (
    demo,
    init,
    plan,
    update,
    refresh,
    check,
    graft,
    promote,
    reject,
    rollback,
    unhold,
    serve,
    history,
    status,
    who_saw,
    forget,
    up,
    down,
    gc,
)
"""In the order of ``perennial --help``."""

for _command in COMMANDS:
    app.command()(_command)

INTERRUPTED = 130
"""Exit code of what Ctrl-C ended, as shells have it."""


@app.callback()
def prepare(context: typer.Context) -> None:
    """Keep a language model up to date: refresh, mix with replay, train, check, publish."""
    from infra.settings import Settings

    # Before any command imports Prefect, which reads its environment once. The demo has a home of
    # its own.
    if context.invoked_subcommand != "demo":
        Settings().export()


def main() -> None:
    """Entry point: errors become one sentence, ``--debug`` shows the traceback."""
    from infra.log import keep_tracebacks_off_the_terminal

    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    if not debug:
        keep_tracebacks_off_the_terminal()
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as ended:
        # typer has made an exit code of Ctrl-C.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        say("interrupted; run the same command again to go on", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:  # the process boundary: nothing ends in a traceback
        if debug:
            raise
        from flows.errors import exit_code_of, is_expected, sentence_of

        say(f"error: {sentence_of(error)}", err=True)
        if not is_expected(error):
            say("(the same command with --debug shows the traceback)", err=True)
        sys.exit(exit_code_of(error))
    finally:
        flush()
