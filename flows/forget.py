"""Forget: take documents down, and prove that nothing of them is left."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field, StringConstraints

from flows import update_steps as steps
from flows.forget_told import foreseen, told_of
from flows.ground import Ground, head_of, open_ground, whoami
from flows.mirror import MirrorError, show_head
from flows.naming import run_name
from flows.outcome import Outcome
from flows.schedule import WaitSeconds
from flows.states import ended
from flows.text_file import text_of
from storage.errors import StorageError
from storage.head import Head, read_head
from storage.lease import Lease
from tasks.forget.forget import (
    Done,
    Site,
    begin,
    finish,
    foresee,
    index_all,
    is_new,
    keys_to_replace,
    unfinished,
)
from tasks.forget.passages import Passages
from tasks.forget.proof import Proof, search_files
from tasks.forget.sweep import purge_older
from tasks.near_duplicates.config import NearDuplicateConfig

logger = logging.getLogger(__name__)

DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Threshold = Annotated[float, Field(gt=0, le=1)]


@flow(name="forget-documents", flow_run_name=run_name, persist_result=False)
def forget_documents(
    lineage_file: Path,
    *,
    ids: tuple[DocumentId, ...] = (),
    text_files: tuple[Path, ...] = (),
    threshold: Threshold | None = None,
    dry_run: bool = True,
    wait_seconds: WaitSeconds = 3600.0,
) -> Outcome:
    """Take documents out of everything a lineage has, and keep them out.

    Takes documents that nearly repeat one, and text that was made from one, with it. Marks every
    version of the model that saw any of it, and searches everything for what is left.

    Args:
        lineage_file: The lineage's YAML file, on the machine that runs the flow.
        ids: Ids of documents, as their sources give them. Without ids and texts, a takedown that
            was begun is finished.
        text_files: Files that hold a document's text, on the machine that runs the flow.
        threshold: Share of a text that another one must repeat to go with it; empty: as the
            lineage's near_duplicates say.
        dry_run: Show what would happen, and change nothing.
        wait_seconds: Longest wait for another run, in seconds; what waited in vain has failed.
    """
    ground = open_ground(lineage_file)
    texts = [text_of(file) for file in text_files]
    site = _site(ground, threshold)
    if dry_run:
        _check_asked(ids, texts)
        forecast = foresee(site, head_of(ground), ids=ids, texts=texts)
        return ended(foreseen(ground, forecast, keys_to_replace(site, forecast)))
    lease = steps.take_lease(ground, wait_seconds=wait_seconds, to_forget=True)
    assert isinstance(lease, Lease)  # only who skips gets something else
    with lease:
        return ended(_forget(ground, site, lease, ids, texts))


def _forget(
    ground: Ground, site: Site, lease: Lease, ids: Sequence[str], texts: Sequence[str]
) -> Outcome:
    """Finish what was begun, then what is asked for."""
    mirror = _Mirror(ground)
    dones: list[Done] = []
    for takedown in unfinished(site):
        logger.info(f"finishing takedown {takedown.id}, which was begun by {takedown.by}")
        dones.append(finish(site, lease, takedown, by=whoami(), show=mirror.show))
    if ids or texts:
        index_all(site)
        forecast = foresee(site, head_of(ground), ids=ids, texts=texts)
        if is_new(site, forecast):
            takedown = begin(site, lease, forecast, by=whoami())
            dones.append(finish(site, lease, takedown, by=whoami(), show=mirror.show))
    if not dones:
        _check_asked(ids, texts)
        head = read_head(ground.store, ground.layout)
        reason = "no snapshot has such a document, or it was forgotten before"
        return steps.outcome(ground, head, "nothing to do", reason)
    return told_of(ground, site, dones, mirror.warnings)


def _site(ground: Ground, threshold: float | None) -> Site:
    near: NearDuplicateConfig | None = ground.lineage.near_duplicates
    if threshold is not None:
        if near is None:
            raise ValueError(
                "a threshold was given, but the lineage has no near_duplicates, so that only "
                "equal texts are found; leave it out, or add the section to the YAML"
            )
        near = replace(near, threshold=threshold)
    ground.work_dir.mkdir(parents=True, exist_ok=True)
    return Site(ground.store, ground.layout, near, ground.work_dir)


def _check_asked(ids: Sequence[str], texts: Sequence[str]) -> None:
    if not ids and not texts:
        raise ValueError("expected a document to forget: give --id ID or --text FILE")


class _Mirror:
    """Makes MLflow show a head, and searches what hangs on its runs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.warnings: list[str] = []

    def show(self, head: Head, passages: Passages) -> Sequence[Proof]:
        if not head.versions:
            return ()
        try:
            show_head(self._ground, head, repair=True)
            return (self._searched(head.lineage, passages),)
        except MirrorError as error:
            self.warnings.append(str(error))
        except StorageError as error:
            self.warnings.append(f"{error}; mend it and run the same command again to search it")
        return ()

    def _searched(self, lineage: str, passages: Passages) -> Proof:
        """Of a bucket every version; through MLflow what can be read."""
        from storage.run_artifacts import (  # noqa: PLC0415  imports MLflow
            bucket_of_artifacts,
            fetch_artifacts,
        )

        uri = self._ground.settings.tracking_uri
        destination = self._ground.settings.sent_artifacts
        found = bucket_of_artifacts(uri, lineage=lineage, destination=destination)
        if found is not None:
            return purge_older(*found, passages)
        with tempfile.TemporaryDirectory(dir=self._ground.work_dir, prefix="forget-") as folder:
            fetched = fetch_artifacts(uri, lineage=lineage, directory=Path(folder))
            return search_files(fetched, passages)
