"""Put what was read, an update's plan, and its verdict, on the page of the Prefect run."""

import logging
from typing import TYPE_CHECKING

from prefect.artifacts import create_markdown_artifact

from flows.outcome import Outcome
from infra.credentials import first_line_of, hide_credentials

if TYPE_CHECKING:
    from flows.ground import Ground
    from flows.plan_view import PlanView
    from tasks.refresh_request import RefreshResult
    from tasks.update_plan import UpdatePlan

logger = logging.getLogger(__name__)


def link_report(ground: "Ground", outcome: Outcome) -> None:
    """Put the verdict, and where report and model version are found, on the flow run's page."""
    name = ground.lineage.name
    _put(
        key=f"{name}-verdict",
        description=f"{outcome.kind}: version {outcome.version} of {name}",
        markdown="\n".join(
            [
                f"# {outcome.kind}: version {outcome.version} of {name}",
                "",
                outcome.message,
                "",
                f"- model version: {model_page(ground)}, the one with the tag `perennial.version = "
                f"{outcome.version}`; its page links to report, curves and parent",
                f"- report: `{outcome.report}`",
            ]
        ),
    )


def link_plan(ground: "Ground", plan: "UpdatePlan", view: "PlanView") -> None:
    """Put what will be trained on, and the drawing of its learning rate, on the run's page."""
    name = ground.lineage.name
    _put(
        key=f"{name}-plan",
        description=f"plan of version {plan.version} of {name}",
        markdown="\n".join(
            [
                f"# Plan of version {plan.version} of {name}",
                "",
                "```text",
                *view.lines,
                "",
                *view.chart,
                "```",
            ]
        ),
    )


def link_refresh(ground: "Ground", result: "RefreshResult", report: str) -> None:
    """Put what was read, kept and dropped, and where its page is found, on the run's page."""
    name = ground.lineage.name
    dropped = sorted(result.documents_dropped.items(), key=lambda item: (-item[1], item[0]))
    _put(
        key=f"{name}-refresh",
        description=f"refresh of {name}: snapshot {result.snapshot}",
        markdown="\n".join(
            [
                f"# Refresh of {name}: snapshot {result.snapshot}",
                "",
                f"- report: `{report}`",
                "",
                # Warnings name files, which are other people's text.
                "```text",
                result.reason,
                *(f"WARNING: {warning}" for warning in result.warnings),
                "",
                f"{result.documents_read:>12,}  documents read",
                *(f"{count:>12,}  dropped: {reason}" for reason, count in dropped),
                f"{result.holdout_documents:>12,}  held out",
                f"{result.train_documents:>12,}  to train on",
                "```",
            ]
        ),
    )


def _put(key: str, description: str, markdown: str) -> None:
    """An artifact; that Prefect does not take it is no reason to stop."""
    try:
        create_markdown_artifact(
            key=key.replace(".", "-").replace("_", "-"), description=description, markdown=markdown
        )
    except Exception as error:  # whatever Prefect's client raises
        logger.warning(f"Prefect's page lacks the {description} ({first_line_of(error)})")


def model_page(ground: "Ground") -> str:
    """Where the lineage's registered model is seen, as a link if a server shows it."""
    name, settings = ground.lineage.name, ground.settings
    if pages := settings.mlflow_pages:
        return f"[{name} in MLflow]({hide_credentials(pages).rstrip('/')}/#/models/{name})"
    return f"`{name}` in MLflow (`{hide_credentials(settings.tracking_uri)}`)"
