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
    address = hide_credentials(ground.settings.tracking_uri)
    create_markdown_artifact(
        key=f"{name}-verdict".replace(".", "-").replace("_", "-"),
        description=f"{outcome.kind}: version {outcome.version} of {name}",
        markdown="\n".join(
            [
                f"# {outcome.kind}: version {outcome.version} of {name}",
                "",
                outcome.message,
                "",
                f"- report: `{outcome.report}`, also `report.html` among the artifacts of the run",
                f"- model version: the one with the tag `perennial.version = {outcome.version}` of "
                f"the registered model `{name}` in MLflow (`{address}`); "
                "it links to its run",
            ]
        ),
    )
