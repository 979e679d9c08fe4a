"""Link an update's verdict and report from the Prefect run that made it."""

from typing import TYPE_CHECKING

from prefect.artifacts import create_markdown_artifact

from flows.outcome import Outcome
from infra.credentials import hide_credentials

if TYPE_CHECKING:
    from flows.ground import Ground


def link_report(ground: "Ground", outcome: Outcome) -> None:
    """Put the verdict, and where report and model version are found, on the flow run's page."""
    name = ground.lineage.name
    create_markdown_artifact(
        key=f"{name}-verdict".replace(".", "-").replace("_", "-"),
        description=f"{outcome.kind}: version {outcome.version} of {name}",
        markdown="\n".join(
            [
                f"# {outcome.kind}: version {outcome.version} of {name}",
                "",
                outcome.message,
                "",
                f"- model version: {_where(ground)}, the one with the tag `perennial.version = "
                f"{outcome.version}`; its page links to report, curves and parent",
                f"- report: `{outcome.report}`",
            ]
        ),
    )


def _where(ground: "Ground") -> str:
    """Where the lineage's registered model is seen, as a link if a server shows it."""
    name, settings = ground.lineage.name, ground.settings
    if pages := settings.mlflow_pages:
        return f"[{name} in MLflow]({hide_credentials(pages).rstrip('/')}/#/models/{name})"
    return f"`{name}` in MLflow (`{hide_credentials(settings.tracking_uri)}`)"
