"""The command line: ``perennial``. Thin over the flows; heavy imports happen inside the commands.

Exit codes: 0 done or nothing to do, 2 usage, 3 verdict FAIL, 4 needs a person, 1 anything else.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.output import flush, say
from tasks.unfinished import TakeOver

if TYPE_CHECKING:
    from flows.outcome import Outcome

app = typer.Typer(
    name="perennial",
    help="Keep a language model up to date: refresh, mix with replay, train, check, publish.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _checked(file: Path) -> Path:
    """Refuse a YAML that cannot be used before Prefect is imported and its server is started."""
    from flows.lineage import load_lineage

    load_lineage(file)
    return file


def _named(name: str) -> str:
    """Refuse a name that no lineage can have, as a wrong argument."""
    from storage.layout import check_name

    try:
        check_name(name, "lineage")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


def _told(reason: str) -> str:
    """Refuse an empty reason in our words, before Prefect refuses it in its own."""
    if not reason.strip():
        raise ValueError("a decision needs a non-empty reason, for whoever reads the history later")
    return reason


LineageFile = Annotated[
    Path,
    typer.Argument(
        metavar="LINEAGE", help="The lineage's YAML file.", show_default=True, callback=_checked
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; recorded with the decision.", callback=_told)
]
Version = Annotated[str, typer.Argument(help="Model version: its number, or its full name.")]

DEFAULT_FILE = Path("lineage.yaml")
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


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where everything goes; default: demo/ in PERENNIAL_HOME.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds initial weights and the order of data.")] = 0,
) -> None:
    """Keep a small model up to date on text this installation has; run again to continue it."""
    from flows.demo import run_demo

    _finish(run_demo(folder, seed=seed), as_json=False)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the lineage.", callback=_named)],
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


@app.command()
def plan(lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Refresh, then print what the next update would train on, how long and at which rate."""
    from flows.update import update_model

    _finish(_run(update_model, lineage_file=lineage, dry_run=True), as_json=as_json)


@app.command()
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
    outcome = _run(
        update_model,
        lineage_file=lineage,
        dry_run=dry_run,
        take_over=take_over,
        branch_from=branch_from,
        cooldown_tokens=cooldown_tokens,
        wait_seconds=wait_seconds,
    )
    _finish(outcome, as_json=as_json)


@app.command()
def refresh(lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Read what is new in the sources and mint a pending snapshot."""
    from flows.refresh import refresh_data

    _finish(_run(refresh_data, lineage_file=lineage), as_json=as_json)


@app.command()
def check(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION | A B [LINEAGE]",
            help="A version; or two models, each a version or a Hugging Face directory. The "
            "lineage's YAML may stand last.",
        ),
    ],
    lineage: Annotated[
        Path | None, typer.Option(help="The lineage's YAML file; default: lineage.yaml, if there.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN=]PATH",
            help="Compare A and B on this file or directory, one domain; may be repeated. "
            "Default: the lineage's suite.",
        ),
    ] = None,
    cluster_field: Annotated[
        str, typer.Option(help="Field of the --text files that says which documents go together.")
    ] = "",
    pending: Annotated[
        bool, typer.Option("--pending", help="Also on held-out text that is not learned yet.")
    ] = False,
    max_loss_nats: Annotated[
        float | None, typer.Option(help="Margin, nats per token; default: the lineage's.", min=0)
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Level; default: the lineage's.", min=0.001, max=0.2)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version again, or whether model B may replace model A. Changes nothing."""
    from flows.compare import Question, answer, names_and_lineage

    names, file = names_and_lineage(models, lineage, DEFAULT_FILE)
    try:
        question = Question(
            models=names,
            lineage=file,
            texts=tuple(text or ()),
            cluster_field=cluster_field,
            pending=pending,
            max_loss_nats=max_loss_nats,
            alpha=alpha,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if len(names) == 2:
        outcome = answer(question, as_json=as_json)
    else:
        lineage_file = _checked(file or DEFAULT_FILE)
        from flows.review import check_model

        outcome = _run(check_model, lineage_file=lineage_file, version=names[0])
    _finish(outcome, as_json=as_json)


@app.command()
def promote(
    version: Version, reason: Reason, lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False
) -> None:
    """Make a version the champion, by a person's decision."""
    from flows.review import promote_version

    _finish(
        _run(promote_version, lineage_file=lineage, version=version, reason=reason), as_json=as_json
    )


@app.command()
def reject(
    version: Version, reason: Reason, lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False
) -> None:
    """Turn an AMBIGUOUS version down; its data stays pending."""
    from flows.review import reject_version

    _finish(
        _run(reject_version, lineage_file=lineage, version=version, reason=reason), as_json=as_json
    )


@app.command()
def rollback(
    reason: Reason,
    lineage: LineageFile = DEFAULT_FILE,
    to: Annotated[
        str | None, typer.Option(help="Version to go back to; default: the champion before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier champion, its trunk and its replay; what was learned since is held."""
    from flows.review import rollback_lineage

    _finish(_run(rollback_lineage, lineage_file=lineage, to=to, reason=reason), as_json=as_json)


@app.command()
def unhold(
    snapshot: Annotated[str, typer.Argument(help="Id of a held snapshot.")],
    reason: Reason,
    lineage: LineageFile = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Let a snapshot that a rollback held be trained on again."""
    from flows.review import unhold_snapshot

    _finish(
        _run(unhold_snapshot, lineage_file=lineage, snapshot=snapshot, reason=reason),
        as_json=as_json,
    )


@app.command()
def serve(
    lineages: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LINEAGE...]", help="YAML files, or folders with YAML files."),
    ] = None,
) -> None:
    """Offer every flow of the lineages in Prefect's pages, run them by schedule and by button."""
    from flows.serve import serve as serve_lineages

    serve_lineages(lineages or [DEFAULT_FILE])


@app.command()
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


@app.command()
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
    print_ground(_checked(lineage) if lineage else None, as_json=as_json)


@app.command()
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
    files = [file if file.is_dir() else _checked(file) for file in lineages or ()]
    start_servers(files if files or no_serve else None, ray_workers=ray_workers)


@app.command()
def down() -> None:
    """Stop the servers of 'perennial up'; databases, passwords and ports stay."""
    from flows.servers import stop_servers

    stop_servers()


@app.command()
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


def _run(flow: Callable[..., Any], **parameters: Any) -> "Outcome":
    """Run a flow here and now, against the configured Prefect server or a temporary one."""
    from flows.drain import end_well_on_sigterm
    from flows.servers import require_prefect
    from flows.temporary_server import start_temporary_server

    require_prefect()
    start_temporary_server()
    end_well_on_sigterm()
    return flow(**parameters)


def _finish(outcome: "Outcome", *, as_json: bool) -> None:
    say(outcome.to_json() if as_json else f"{outcome.text}\n{outcome.chart}".rstrip("\n"))
    raise typer.Exit(outcome.exit_code)


if __name__ == "__main__":
    main()
