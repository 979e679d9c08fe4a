"""The door to MLflow, in our words: runs, and a registered model that is a picture of the head.

Runs are made in ``storage.tracking``, the model here. MLflow never decides anything. The picture
is written after the head and repaired by any later command. Weights stay where they are: a model
version refers to ``models/<version>/`` in the object store. ``is_projected`` answers from the
store, without MLflow, whose import takes seconds.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.errors import NotFoundError
from storage.head import Head, VersionRecord
from storage.layout import Layout
from storage.manifest import canonical_json, identity_of
from storage.mlflow_client import check_tracking, mlflow_client
from storage.objects import ObjectStore
from storage.tracking import (
    TAG,
    FoundRun,
    MetricPoint,
    Run,
    discard_run,
    find_run,
    finish,
    list_runs,
    log_figures,
    log_metrics,
    log_params,
    logged_steps,
    newest_value,
    open_run,
    shorten,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = [
    "CHAMPION",
    "FoundRun",
    "MetricPoint",
    "Run",
    "VersionPage",
    "check_tracking",
    "discard_run",
    "find_run",
    "finish",
    "is_projected",
    "list_runs",
    "log_figures",
    "log_metrics",
    "log_params",
    "logged_steps",
    "newest_value",
    "open_run",
    "project",
]

logger = logging.getLogger(__name__)

CHAMPION = "champion"
"""Alias of the model in use: ``models:/<lineage>@champion``."""

# Part of the projection's digest: raise it when pages change, and every lineage is written again.
_PROJECTION_FORMAT = 3
# Width of MLflow's database columns; SQLite would take more, PostgreSQL refuses.
_MAX_TEXT_CHARACTERS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPage:
    """What MLflow shows of a model version beyond its record on the head."""

    source: str
    """URI of ``models/<version>/``."""
    description: str
    """Markdown, read by the reviewer."""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """More tags by their names without prefix: recipe, code_version."""
    run_id: str | None = None
    """MLflow's id of the run of its update, if it has one."""


def is_projected(store: ObjectStore, layout: Layout, head: Head, tracking_uri: str) -> bool:
    """Whether MLflow was last told exactly what ``head`` says. One small read, no MLflow."""
    try:
        return store.get(layout.projection) == _marker(head, tracking_uri)
    except NotFoundError:
        return False


def project(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    tracking_uri: str,
    pages: Callable[[str, Mapping[str, int]], VersionPage],
) -> None:
    """Make MLflow show what ``head`` says, and repair versions, tags, descriptions and alias.

    Versions are found by the tag ``perennial.version``, or by their source when somebody deleted
    the tag; MLflow's own numbers mean nothing. Safe to retry; the marker is written last.

    Args:
        store: Gets the marker that ``is_projected`` reads.
        layout: Of the lineage, whose name is the registered model's.
        head: The newest head.
        tracking_uri: Also the registry.
        pages: The page of a version, parents first; it is also given MLflow's numbers of the
            versions that it knows. Asked for again when a child is new, to which it may link.
    """
    client = mlflow_client(tracking_uri)
    _ensure_registered_model(client, head.lineage)
    registered = list(_registered_versions(client, head.lineage))
    numbers = {
        v.tags[f"{TAG}version"]: int(v.version)
        for v in sorted(registered, key=lambda v: -int(v.version))
        if f"{TAG}version" in v.tags
    }
    children = {record.parent for record in head.versions if record.version not in numbers}
    for record in head.versions:
        page = pages(record.version, numbers)
        kept, again = _find_version(registered, record.version, page.source)
        for version in again:
            client.delete_model_version(head.lineage, str(version.version))
        numbers[record.version] = _show_version(client, head, record, page, kept)
    for record in head.versions:
        if record.version in children:
            page = pages(record.version, numbers)
            shown = client.get_model_version(head.lineage, str(numbers[record.version]))
            _show_version(client, head, record, page, shown)
    _point_alias(client, head.lineage, numbers[head.champion] if head.champion else None)
    store.put(layout.projection, _marker(head, tracking_uri))
    logger.info("MLflow shows head %d of %s, champion %s", head.number, head.lineage, head.champion)


def _show_version(
    client: "MlflowClient",
    head: Head,
    record: VersionRecord,
    page: VersionPage,
    found: "ModelVersion | None",
) -> int:
    """Register the version by reference or correct what differs; returns MLflow's number."""
    description = shorten(page.description, _MAX_TEXT_CHARACTERS)
    tags = _version_tags(record, page)
    if found is None:
        created = client.create_model_version(
            head.lineage,
            source=page.source,
            run_id=page.run_id,
            tags=tags,
            description=description,
            # Nothing is copied, so there is nothing to wait for.
            await_creation_for=0,
        )
        return int(created.version)
    number = str(found.version)
    if found.description != description:
        client.update_model_version(head.lineage, number, description)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_model_version_tag(head.lineage, number, key, value)
    for key in found.tags:
        if key.startswith(TAG) and key not in tags:
            client.delete_model_version_tag(head.lineage, number, key)
    return int(number)


def _version_tags(record: VersionRecord, page: VersionPage) -> dict[str, str]:
    tags = {
        "version": record.version,
        "update": record.update,
        "verdict": record.verdict,
        "decision": record.decision,
        "reason": record.reason,
        "parent": record.parent or "none",
        "snapshots": ",".join(record.snapshots) or "none",
        "replay": record.replay or "none",
        "head": str(record.on_head),
        "published_on_head": str(record.published_on_head or "none"),
        **_remedy_tags(record),
        **_takedown_tags(record),
        **page.facts,
    }
    return {f"{TAG}{key}": shorten(value, _MAX_TEXT_CHARACTERS) for key, value in tags.items()}


def _remedy_tags(record: VersionRecord) -> dict[str, str]:
    """How a version was made that repairs another one; nothing for all others."""
    if record.remedy_of is None:
        return {}
    merged_from = {"merged_from": ",".join(record.merged_from)} if record.merged_from else {}
    return {"remedy": record.remedy, "remedy_of": record.remedy_of, **merged_from}


def _takedown_tags(record: VersionRecord) -> dict[str, str]:
    """That a version has seen what was taken down since; nothing for all others."""
    return {"saw_forgotten": ",".join(record.takedowns)} if record.takedowns else {}


def _find_version(
    registered: "list[ModelVersion]", version: str, source: str
) -> "tuple[ModelVersion | None, list[ModelVersion]]":
    """The version to show, and others that a creation whose answer was lost made again."""
    tagged = [v for v in registered if v.tags.get(f"{TAG}version") == version]
    untagged = [v for v in registered if f"{TAG}version" not in v.tags and v.source == source]
    candidates = sorted(tagged or untagged, key=lambda v: int(v.version))
    return (candidates[0], candidates[1:] if tagged else []) if candidates else (None, [])


def _point_alias(client: "MlflowClient", lineage: str, champion: int | None) -> None:
    aliases: dict[str, Any] = client.get_registered_model(lineage).aliases
    if champion is None:
        if CHAMPION in aliases:
            client.delete_registered_model_alias(lineage, CHAMPION)
    elif str(aliases.get(CHAMPION)) != str(champion):
        client.set_registered_model_alias(lineage, CHAMPION, str(champion))


def _ensure_registered_model(client: "MlflowClient", lineage: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  heavy

    try:
        client.create_registered_model(lineage, tags={f"{TAG}lineage": lineage})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered_versions(client: "MlflowClient", lineage: str) -> "Iterator[ModelVersion]":
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name='{lineage}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _marker(head: Head, tracking_uri: str) -> bytes:
    # Only the hash of the URI: it may hold a password.
    shown = {
        "format": _PROJECTION_FORMAT,
        "tracking_uri": tracking_uri,
        "champion": head.champion,
        "versions": head.versions,
    }
    return canonical_json({"digest": identity_of(shown)})
