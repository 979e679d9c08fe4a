"""What a refresh is asked to do, what it answers, and the identity of its result."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from infra.bounds import Bounds
from storage.head import Head, SnapshotRole
from storage.layout import Layout
from storage.manifest import identity_of
from storage.near_duplicate_index import slots_of
from storage.objects import ObjectStore
from storage.snapshots import read_snapshot
from tasks.build import RESERVED_NAMES, BuildInputs
from tasks.curate import CurateConfig
from tasks.curation.champion import champion_of
from tasks.curation.learn import learn_from
from tasks.decontamination.screen import read_sought
from tasks.documents import SourceObject
from tasks.evaluations.config import TaskConfig
from tasks.ingest import describe_changes, list_source, new_objects
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.source_reading import SourceFiles
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from training.config import FORBID_UNKNOWN

logger = logging.getLogger(__name__)

_METHOD = 2
"""Raise it when the same inputs give other bytes than before: it is part of every identity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefreshConfig:
    """When there is enough new data for a snapshot. Less stays unread until there is more."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_new_documents: Annotated[int, Bounds(ge=1, unit="documents")] = 1
    """Fewest new documents, after curation."""
    min_new_tokens: Annotated[int, Bounds(ge=0, unit="tokens")] = 0
    """Fewest tokens of new documents, after curation."""
    num_workers: Annotated[int | None, Bounds(ge=0, unit="workers")] = None
    """Ray workers that prepare documents, one processor each, where there is much to read; as many
    as train if not set. 0 reads in the flow's own process. No influence on what comes out."""


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """A tokenizer that lies in the store."""

    prefix: str


@dataclass(frozen=True, slots=True)
class ImportedTokenizer:
    """A tokenizer that a Hugging Face directory brings."""

    directory: Path


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """A tokenizer to be trained on the documents of the lineage's first refresh."""

    vocab_size: int


TokenizerChoice: TypeAlias = StoredTokenizer | ImportedTokenizer | TrainedTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRequest:
    """What to read and what to make of it."""

    sources: tuple[SourceConfig, ...]
    tokenizer: TokenizerChoice
    """For a lineage that has none yet; one that was trained or imported before stays."""
    seq_len: int
    """Inputs of a sample, in tokens."""
    curate: CurateConfig = field(default_factory=CurateConfig)
    kept_out: tuple[TaskConfig, ...] = ()
    """Sets of task items that no training text may have."""
    leak_share: float = 0.5
    """Share of an item that a document gives away to be dropped."""
    near_duplicates: NearDuplicateConfig | None = None
    """None: they are not looked for."""
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    minimum: RefreshConfig = field(default_factory=RefreshConfig)
    role: SnapshotRole = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What a refresh did."""

    snapshot: str | None
    """Id of the snapshot that it committed, None when there was nothing to do."""
    head: int
    """Number of the newest head after it."""
    reason: str
    """In one sentence, for people."""
    files_listed: int = 0
    files_new: int = 0
    documents_read: int = 0
    documents_dropped: dict[str, int] = field(default_factory=dict[str, int])
    """By reason."""
    lines_rejected: dict[str, int] = field(default_factory=dict[str, int])
    """By reason."""
    train_documents: int = 0
    train_tokens: int = 0
    holdout_documents: int = 0
    holdout_tokens: int = 0
    warnings: tuple[str, ...] = ()
    """What a person should know: rejects, sources without a file, domains without a holdout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the sources hold now."""

    new: SourceFiles
    """The sources that have new files, by name, with these files."""
    files_listed: int
    """Of all sources, new or not."""
    without_files: tuple[str, ...]
    """A sentence for every source whose pattern matches no file."""


def list_new(request: RefreshRequest, marks: dict[str, str]) -> Listing:
    """List all sources, and tell apart what is marked as read."""
    files_listed = 0
    without_files: list[str] = []
    found: list[tuple[SourceConfig, tuple[SourceObject, ...]]] = []
    for source in sorted(request.sources, key=lambda source: source.name):
        listed = list_source(source)
        files_listed += len(listed)
        if not listed:
            without_files.append(f"source {source.name}: no file matches {source.uri}")
        if new := new_objects(listed, marks):
            logger.info(f"source {source.name}: files to read: {describe_changes(new)}")
            found.append((source, tuple(new)))
    return Listing(new=tuple(found), files_listed=files_listed, without_files=tuple(without_files))


def inputs_of(
    store: ObjectStore,
    layout: Layout,
    request: RefreshRequest,
    head: Head | None,
    sources: SourceFiles,
    work_dir: Path,
) -> BuildInputs:
    """What is built, and its identity: hash of all that can change a byte of it.

    ``work_dir`` is for copies of the champion, where rules ask for it.
    """
    _check_domains(request)
    _check_seq_len(store, layout, request, head)
    determining: dict[str, Any] = {
        "method": _METHOD,
        "lineage": layout.lineage,
        "known": state_of(head),
        "sources": sources,
        "curate": request.curate,
        "holdout": request.holdout,
        "seq_len": request.seq_len,
        "role": request.role,
        "tokenizer": _tokenizer_identity(head, request.tokenizer),
    }
    sought = None
    # Where nothing is kept out, identities are those from before there was such a thing.
    if request.kept_out:
        sought = read_sought(request.kept_out, min_share=request.leak_share)
        determining["sought"] = [sought.min_share, sorted(sought.files.items())]
    # Without the section a lineage has the identities that it had before there was one.
    if request.near_duplicates is not None:
        determining["near_duplicates"] = request.near_duplicates
    learned = learn_from(request.curate.domains.values())
    if learned.digests:
        determining["learned"] = learned.digests
    if request.curate.scored_domains:
        learned = replace(learned, champion=champion_of(store, layout, head, work_dir))
    if learned.champion is not None:
        determining["champion"] = learned.champion.identity
    return BuildInputs(
        identity=identity_of(determining),
        sources=sources,
        curate=request.curate,
        sought=sought,
        checked_suite=head.suite if head and sought else None,
        near_duplicates=request.near_duplicates,
        holdout=request.holdout,
        seq_len=request.seq_len,
        role=request.role,
        learned=learned,
    )


def state_of(head: Head | None) -> tuple[tuple[str, ...] | str | None, ...]:
    """What of a lineage's state a refresh depends on: known data, marks, suite, takedowns."""
    if head is None:
        return (), None, None
    state = (known_snapshots(head), head.marks, head.suite)
    # Without a takedown identities are those from before there was such a thing.
    return (*state, head.takedowns) if head.takedowns else state


def known_snapshots(head: Head | None) -> tuple[str, ...]:
    """Snapshots whose documents count as known; those of a refused one may come again."""
    return tuple(slot for slot in slots_of(head) if slot)


def _check_domains(request: RefreshRequest) -> None:
    for source in request.sources:
        if source.domain in RESERVED_NAMES:
            raise ValueError(
                f"domain {source.domain!r} of source {source.name!r} is the name of a file of "
                "every snapshot; give the domain another name"
            )


def _check_seq_len(
    store: ObjectStore, layout: Layout, request: RefreshRequest, head: Head | None
) -> None:
    for snapshot in known_snapshots(head)[-1:]:
        seq_len = read_snapshot(store, layout, snapshot).seq_len
        if seq_len != request.seq_len:
            raise ValueError(
                f"seq_len is {request.seq_len}, but the snapshots of {layout.lineage} have "
                f"{seq_len} tokens a sample: it is fixed when a lineage starts; set it back, or "
                "start another lineage"
            )


def _tokenizer_identity(head: Head | None, choice: TokenizerChoice) -> str:
    """What of the tokenizer goes into an identity: its digest, or how it will be trained."""
    wanted = None
    has_tokenizer = head is not None and head.tokenizer is not None
    if isinstance(choice, ImportedTokenizer):
        # Once it was imported the directory may be gone; what the lineage has is what counts.
        if choice.directory.is_dir() or not has_tokenizer:
            from training.tokenizer import tokenizer_digest  # noqa: PLC0415  imports tokenizers

            wanted = tokenizer_digest(choice.directory)
    elif isinstance(choice, StoredTokenizer):
        wanted = choice.prefix.rpartition("/")[2]
    if head is None or head.tokenizer is None:
        return wanted or identity_of(choice)
    has = head.tokenizer.rpartition("/")[2]
    if wanted not in (None, has):
        raise ValueError(
            f"{head.lineage} has data of the tokenizer {has[:12]}, the request brings "
            f"{wanted:.12}: tokens of one mean nothing to the other; start another lineage for it"
        )
    return has
