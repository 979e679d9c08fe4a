"""The command that judges: check."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import DEFAULT_FILE, AsJson, checked
from flows.cli.running import finish, run


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
            "Without --text and --task: the lineage's suite.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:PATH",
            help="Ask A and B the questions of this file; may be repeated. Kinds: multiple_choice, "
            "cloze, minimal_pairs, generation (JSONL), lm_eval (a task's YAML).",
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
            tasks=tuple(task or ()),
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
        lineage_file = checked(file or DEFAULT_FILE)
        from flows.review import check_model

        outcome = run(check_model, lineage_file=lineage_file, version=names[0])
    finish(outcome, as_json=as_json)
