"""What Prefect's pages still offer for lineages that were renamed or removed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse

from flows.deployments import TAG

_PAGE = 200
"""Deployments that Prefect's server tells at once."""


async def find_obsolete(
    client: PrefectClient, paths: Sequence[Path], names: Mapping[Path, str]
) -> dict[UUID, str]:
    """Deployments, with their names, whose YAML is gone or has another lineage now.

    Only those whose YAML lies where this service looks: others are another service's to see to.

    Args:
        client: Of Prefect's server.
        paths: Files and folders that are served, absolute.
        names: Lineage that each served file had when it could be read last.
    """
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: dict[UUID, str] = {}
    offset = 0
    while True:
        page = await client.read_deployments(deployment_filter=tagged, limit=_PAGE, offset=offset)
        found |= {
            deployment.id: f"{deployment.name} ({_file(deployment)})"
            for deployment in page
            if _is_obsolete(deployment, paths, names)
        }
        if len(page) < _PAGE:
            return found
        offset += _PAGE


def _file(deployment: DeploymentResponse) -> Path:
    return Path(str(deployment.parameters.get("lineage_file", "")))


def _is_obsolete(
    deployment: DeploymentResponse, paths: Sequence[Path], names: Mapping[Path, str]
) -> bool:
    file = _file(deployment)
    if file not in paths and file.parent not in paths:
        return False
    if not file.exists():
        return True
    return file in names and names[file] != deployment.name
