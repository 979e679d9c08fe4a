"""Scores on record: what every version made of every slice, and the matrix of forgetting.

A score is found by its inputs: the version names the model, the slice's name and the hash of its
files name the documents. Nothing is scored twice, and what a takedown rewrote is scored anew.
"""

import math
from dataclasses import dataclass

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import content_hash, load, publish
from storage.objects import ObjectStore
from storage.suite import SuiteManifest, SuiteSlice
from tasks.judge.verdict import DocumentScore, nats_per_token
from tasks.scoring.forgetting import ForgettingMatrix, MatrixRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScores:
    """One version's scores on one slice, column by column."""

    version: str
    slice: str
    content: str
    """SHA-256 over the digests of the slice's files."""
    documents: tuple[str, ...]
    clusters: tuple[str, ...]
    nats: tuple[float | None, ...]
    """None where the sum is not a finite number, which JSON cannot say."""
    targets: tuple[int, ...]
    text_bytes: tuple[int, ...]


def scores_key(layout: Layout, version: str, item: SuiteSlice) -> str:
    """Where the scores of ``version`` on a slice lie."""
    return layout.scores(version, f"{item.name}-{content_hash(item.files)[:12]}")


def read_scores(
    store: ObjectStore, layout: Layout, version: str, item: SuiteSlice
) -> tuple[DocumentScore, ...] | None:
    """The scores on record, None without any.

    Raises:
        CorruptError: The record is damaged, or of another slice.
    """
    key = scores_key(layout, version, item)
    try:
        stored = load(store, key, StoredScores)
    except NotFoundError:
        return None
    lengths = {len(stored.clusters), len(stored.nats), len(stored.targets), len(stored.text_bytes)}
    content = content_hash(item.files)
    if stored.content != content or lengths != {len(stored.documents)}:
        raise CorruptError(
            f"{key} holds {len(stored.documents)} documents of content {stored.content[:12]}, "
            f"expected columns of one length of content {content[:12]}: delete it, it will be "
            "computed again"
        )
    return tuple(
        DocumentScore(document, cluster, math.nan if nats is None else nats, targets, text_bytes)
        for document, cluster, nats, targets, text_bytes in zip(
            stored.documents,
            stored.clusters,
            stored.nats,
            stored.targets,
            stored.text_bytes,
            strict=True,
        )
    )


def write_scores(
    store: ObjectStore,
    layout: Layout,
    version: str,
    item: SuiteSlice,
    scores: tuple[DocumentScore, ...],
) -> tuple[DocumentScore, ...]:
    """Put scores on record and return those that are: of two who scored at once, the first's.

    Safe to retry.
    """
    stored = StoredScores(
        version=version,
        slice=item.name,
        content=content_hash(item.files),
        documents=tuple(score.document for score in scores),
        clusters=tuple(score.cluster for score in scores),
        nats=tuple(score.nats if math.isfinite(score.nats) else None for score in scores),
        targets=tuple(score.targets for score in scores),
        text_bytes=tuple(score.text_bytes for score in scores),
    )
    try:
        publish(store, scores_key(layout, version, item), stored)
    except AlreadyExistsError:
        # Another number of threads rounds differently; a verdict must rest on what is on record.
        return read_scores(store, layout, version, item) or scores
    return scores


def forgetting_matrix(
    store: ObjectStore, layout: Layout, head: Head, suite: SuiteManifest
) -> ForgettingMatrix:
    """The losses of all versions on all slices, from the record alone; computes no score."""
    age = {record.id: index for index, record in enumerate(head.snapshots)}
    slices = sorted(suite.slices, key=lambda item: (age.get(item.snapshot, len(age)), item.domain))
    rows: list[MatrixRow] = []
    for record in head.versions:
        losses = [_loss(store, layout, record.version, item) for item in slices]
        rows.append(
            MatrixRow(
                version=record.version,
                decision=record.decision,
                is_champion=record.version == head.champion,
                nats_per_token=tuple(losses),
            )
        )
    return ForgettingMatrix(slices=tuple(item.name for item in slices), rows=tuple(rows))


def _loss(store: ObjectStore, layout: Layout, version: str, item: SuiteSlice) -> float | None:
    scores = read_scores(store, layout, version, item)
    return None if scores is None else nats_per_token(scores)
