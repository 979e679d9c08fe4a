"""Forget: take documents down, and prove that nothing of them is left."""

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field, StringConstraints

from flows import update_steps as steps
from flows.ground import Ground, head_of, open_ground, whoami
from flows.mirror import MirrorError, show_head
from flows.naming import run_name
from flows.outcome import Outcome
from flows.output import as_name
from flows.schedule import WaitSeconds
from flows.states import ended
from flows.text_file import text_of
from storage.errors import StorageError
from storage.head import Head, read_head
from storage.lease import Lease
from storage.takedowns import FORGOTTEN, UnkeptText
from tasks.drop_reasons import is_elsewhere
from tasks.forget.forget import (
    Done,
    Forecast,
    Site,
    begin,
    finish,
    foresee,
    index_all,
    is_new,
    keys_to_replace,
    unfinished,
)
from tasks.forget.others import others_with
from tasks.forget.passages import Passages
from tasks.forget.proof import Proof, search_files
from tasks.forget.sweep import purge_older
from tasks.near_duplicates.config import NearDuplicateConfig

logger = logging.getLogger(__name__)

DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Threshold = Annotated[float, Field(gt=0, le=1)]

_MOST_NAMED = 20


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
        return ended(_foreseen(ground, forecast, keys_to_replace(site, forecast)))
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
    return _told(ground, site, dones, mirror.warnings)


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


def _foreseen(ground: Ground, forecast: Forecast, keys: Sequence[str]) -> Outcome:
    found = forecast.found
    lines = [
        f"would forget {len(found.documents):,} documents in "
        f"{len({one.snapshot for one in found.documents}):,} snapshots:"
    ]
    lines += [
        f"  {as_name(one.document)} in snapshot {one.snapshot}, {one.domain}: {one.split}, "
        f"{one.why}"
        for one in found.documents[:_MOST_NAMED]
    ]
    if len(found.documents) > _MOST_NAMED:
        lines.append(f"  and {len(found.documents) - _MOST_NAMED:,} more")
    lines += [
        f"  of {as_name(document)}, dropped as {one.reason}, no text was kept"
        for document, one in list(found.unkept.items())[:_MOST_NAMED]
    ]
    lines += [
        _seen_by(forecast.versions, ", which would be marked"),
        f"drawn from by {len(forecast.replay):,} versions of the replay, which hold no copies",
        f"would replace or remove {len(keys):,} objects:",
        *(f"  {key}" for key in keys[:_MOST_NAMED]),
    ]
    if len(keys) > _MOST_NAMED:
        lines.append(f"  and {len(keys) - _MOST_NAMED:,} more")
    lines.append("nothing was changed")
    head = read_head(ground.store, ground.layout)
    details: dict[str, Any] = {
        "takedown": found.id,
        "documents": [asdict(one) for one in found.documents],
        "versions": forecast.versions,
        "replay": forecast.replay,
        "objects": keys,
        "unkept": {document: asdict(one) for document, one in found.unkept.items()},
    }
    return steps.outcome(
        ground,
        head,
        "planned",
        "\n".join(lines),
        details=details,
        warnings=(
            *_too_short(found.too_short),
            *_not_kept(list(found.unkept.values())),
            *_unindexed(forecast.unindexed),
            *_elsewhere(forecast.machines),
        ),
    )


def _told(ground: Ground, site: Site, dones: Sequence[Done], warnings: Sequence[str]) -> Outcome:
    """What was done, without a word of what was forgotten."""
    lines: list[str] = []
    more: list[str] = list(warnings)
    for done in dones:
        lines += _lines(done)
        more += [
            f"task {name} of the YAML has items that quote it: take them out of its file, or they "
            "come back with the next update"
            for name in done.takedown.tasks
        ]
        if done.proof.places:
            passages = Passages(done.takedown.windows)
            others = others_with(
                site.store, site.layout, done.proof.places, passages, site.work_dir
            )
            more += _left(done, others)
        if not done.takedown.windows:
            more += _too_short(done.takedown.too_short)
        more += _not_kept(done.takedown.unkept)
    is_left = any(
        done.proof.places or any(map(_is_somewhere, done.takedown.unkept)) for done in dones
    )
    details = {
        "takedowns": [
            {
                "id": done.takedown.id,
                "documents": len(done.takedown.documents),
                "snapshots": done.takedown.snapshots,
                "versions": done.takedown.versions,
                "unkept": [asdict(one) for one in done.takedown.unkept],
                "proof": asdict(done.proof),
            }
            for done in dones
        ]
    }
    return steps.outcome(
        ground,
        read_head(ground.store, ground.layout),
        "left over" if is_left else "done",
        "\n".join(lines),
        details=details,
        warnings=tuple(dict.fromkeys((*more, *_elsewhere(dones[-1].machines)))),
    )


def _lines(done: Done) -> list[str]:
    takedown, proof = done.takedown, done.proof
    return [
        f"takedown {takedown.id}: {len(takedown.documents):,} documents in "
        f"{len({one.snapshot for one in takedown.documents}):,} snapshots are forgotten, copies "
        "stay out",
        _seen_by(takedown.versions, "; marked as saw_forgotten"),
        f"searched {proof.objects:,} objects in {proof.versions:,} versions and "
        f"{proof.local_files:,} files, {proof.num_bytes / 1e6:,.1f} MB, for {proof.windows:,} "
        f"passages of text and tokens: {len(proof.places):,} places have any",
    ]


def _left(done: Done, others: Sequence[str]) -> list[str]:
    told = [
        f"{place.passages} of {done.proof.windows} passages stand in {place.where}"
        + (f", version {place.version}" if place.version else "")
        for place in done.proof.places
    ]
    if others:
        told.append(
            f"they are also what these documents say, which were not asked for: "
            f"{', '.join(map(as_name, others[:_MOST_NAMED]))}; forget them too if they should go"
        )
    return told


def _seen_by(versions: Sequence[str], marked: str) -> str:
    return f"seen by versions {', '.join(versions)}{marked}" if versions else "seen by no version"


def _too_short(texts: int) -> list[str]:
    if not texts:
        return []
    return [f"{texts} texts are too short to be searched for: fewer than 24 bytes"]


def _is_somewhere(text: UnkeptText) -> bool:
    """Whether a lineage has what the text says, and nobody has looked for it."""
    return is_elsewhere(text.reason) and not text.is_repeated


def _not_kept(texts: Sequence[UnkeptText]) -> list[str]:
    """Of documents of which no text is there: what became of the search for it."""
    told: list[str] = []
    for text, count in sorted(Counter(texts).items(), key=lambda item: item[0].reason):
        whose = "the text of 1 document" if count == 1 else f"the text of {count:,} documents"
        if text.reason == FORGOTTEN:
            told.append(f"{whose} was forgotten before, and is not searched for again")
            continue
        begin = f"{whose} was not kept: dropped as {text.reason}"
        if text.is_repeated:
            told.append(f"{begin}; searched for is what it nearly repeats, which goes with it")
        elif is_elsewhere(text.reason):
            told.append(
                f"{begin}, which says that its words stand elsewhere in the lineage or its tasks, "
                "and they are neither searched for nor known to have been learned; they can be "
                "found by --text FILE only"
            )
        else:
            told.append(f"{begin}; it is not searched for, which can be done by --text FILE only")
    return told


def _unindexed(snapshots: int) -> list[str]:
    if not snapshots:
        return []
    return [
        f"{snapshots} snapshots have no signatures yet: near copies there are found when documents "
        "are forgotten, not by a dry run"
    ]


def _elsewhere(machines: Sequence[str]) -> list[str]:
    if not machines:
        return []
    return [
        f"other machines may have local copies: {', '.join(machines)}; remove what lies in their "
        "scratch folders (work/ in PERENNIAL_HOME) while nothing runs there"
    ]
