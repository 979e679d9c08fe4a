"""From source files to tokenised, split documents, which ``tasks.mint`` makes a snapshot of.

Texts pass through in batches; what stays in memory is an array of tokens and a few strings a
document.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from storage.head import SnapshotRole
from storage.near_duplicate_index import SEGMENT, NearDuplicateIndex
from storage.snapshots import (
    DOCUMENTS,
    UNIGRAM,
    CheckedTask,
    KnownDocuments,
)
from tasks.curate import CurateConfig, caps_of, curate
from tasks.curation.annotation_table import ANNOTATIONS, AnnotationWriter, read_annotations
from tasks.curation.learned import NOTHING_LEARNED, Learned
from tasks.curation.pii import PREFIX as PII_COLUMNS
from tasks.curation.pii import describe_found
from tasks.decontamination.screen import DecontaminationScreen, Sought
from tasks.documents import Document, ReadPart, Reject, SourceObject
from tasks.edited import HeldOutOfFiles, settle_edited
from tasks.encode import DocumentEncoder
from tasks.ingest import RETRIED_REASONS, next_marks, read_objects
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tasks.pack import Framing, framed_length, framing_of
from tasks.real_first import real_first
from tasks.rejects import REJECTS, RejectWriter
from tasks.shares import KeptTexts, cap_shares
from tasks.sources import SourceConfig
from tasks.split import HOLDOUT_CAP, HoldoutConfig, SplitRow, key_of, split_by_cluster
from tasks.tokenize import TokenizedDocument, tokenize_documents, train_on

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CONSUMED = "consumed.json"
"""Marks of the files that the snapshot was read from: entity tag by URI."""
LEAKS = "leaks.jsonl"
"""The task items that documents gave away which were dropped for it, a line each."""
RESERVED_NAMES = frozenset(
    {"manifest.json", ANNOTATIONS, DOCUMENTS, REJECTS, CONSUMED, UNIGRAM, LEAKS, SEGMENT}
)
"""What no domain can be called, because its shards would lie under the key of a file."""

_ENOUGH_DOCUMENTS, _MOST = 20, 0.9
"""Of a domain, from which on a rule that drops so much of it is told."""

_NOTHING: HeldOutOfFiles = {}

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much (0 when that is not known)."""

SourceFiles: TypeAlias = tuple[tuple[SourceConfig, tuple[SourceObject, ...]], ...]
"""Sources in canonical order, each with its files to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """What determines a snapshot, together with its tokenizer and what the lineage knows."""

    identity: str
    sources: SourceFiles
    curate: CurateConfig
    sought: Sought | None
    """Task items that the training text must not have; None: there are none."""
    checked_suite: str | None
    near_duplicates: NearDuplicateConfig | None
    holdout: HoldoutConfig
    seq_len: int
    role: SnapshotRole
    learned: Learned = NOTHING_LEARNED
    """What the rules learned from the files that they name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadDocuments:
    """All documents of a refresh, tokenised and split, before anything is stored."""

    documents: tuple[TokenizedDocument, ...]
    tokenizer: "Tokenizer"
    consumed: dict[str, str]
    """Marks of the files that could be read."""
    rejected: dict[str, int]
    """Lines, rows and files by reason."""
    warnings: tuple[str, ...]
    first_reject: Reject | None = None
    checked_tasks: tuple[CheckedTask, ...] = ()
    """What was looked for in the documents."""

    @property
    def num_train(self) -> int:
        """Documents to train on."""
        return sum(row.split == "train" for row in self.documents)

    @property
    def num_kept(self) -> int:
        """Documents to train on and held-out ones."""
        return sum(row.split != "dropped" for row in self.documents)

    @property
    def num_kept_tokens(self) -> int:
        """Tokens of the kept documents, without framing."""
        return sum(len(row.tokens) for row in self.documents if row.split != "dropped")

    @property
    def dropped(self) -> dict[str, int]:
        """Documents by the reason why they were dropped."""
        return dict(sorted(Counter(row.reason for row in self.documents if row.reason).items()))


def read_and_split(
    inputs: BuildInputs,
    tokenizer: "Tokenizer | int",
    known: KnownDocuments,
    index: NearDuplicateIndex,
    *,
    lineage: str,
    work_dir: Path,
    certificates: Path,
    progress: Progress,
    held_out: HeldOutOfFiles = _NOTHING,
) -> ReadDocuments:
    """Read, curate, tokenise and split. Stores nothing.

    The rejects go to ``work_dir``, and the signatures of what near-duplicates are looked for in.

    Args:
        inputs: What to read and how.
        tokenizer: To use, or the vocab_size of one to be trained on the kept documents.
        known: What the lineage has already.
        index: Of the near-duplicates of what it has.
        lineage: Name of the lineage.
        work_dir: Empty local directory.
        certificates: Local directory of ``DocumentEncoder``; may be missing.
        progress: Told how many documents are done.
        held_out: What is held out of files that were replaced.

    Raises:
        SourceRefusedError: Too much of a source cannot be read.
        EncodingMismatchError: The fast path of the tokenizer is wrong.
    """
    unread: list[Reject] = []
    parts: dict[str, ReadPart] = {}
    with (
        RejectWriter(work_dir / REJECTS) as rejects,
        AnnotationWriter(
            work_dir / ANNOTATIONS, inputs.curate.annotation_columns, inputs.learned.digests
        ) as annotations,
    ):

        def reject(item: Reject) -> None:
            rejects.add(item)
            if item.reason in RETRIED_REASONS:
                unread.append(item)

        curated = curate(
            real_first(_documents(inputs, reject, parts), work_dir / "synthetic"),
            known.has,
            inputs.curate,
            annotations.add,
            inputs.learned,
        )
        leaks = None
        if inputs.sought is not None:
            leaks = DecontaminationScreen(inputs.sought)
            curated = leaks.screen(curated)
        screen = None
        if inputs.near_duplicates is not None:
            screen = NearDuplicateScreen(inputs.near_duplicates, index)
            curated = screen.screen(curated)
        if isinstance(tokenizer, int):
            tokenizer, curated = train_on(curated, work_dir, vocab_size=tokenizer)
        documents = tokenize_documents(
            curated,
            DocumentEncoder(tokenizer, certificates),
            lambda done: progress("documents", done, 0),
        )
    if leaks is not None:
        leaks.write(work_dir / LEAKS)
    if screen is not None:
        screen.write(work_dir / SEGMENT, inputs.identity[:12])
    documents = settle_edited(documents, held_out)
    documents = _capped(documents, known, inputs.curate)
    framing = framing_of(tokenizer)
    split, warnings = _split(documents, known, inputs.holdout, framing, lineage=lineage)
    if (work_dir / ANNOTATIONS).exists():
        _, numbers = read_annotations(work_dir / ANNOTATIONS, PII_COLUMNS)
        found = describe_found(numbers)
        warnings = (*warnings, found) if found else warnings
    warnings = (*warnings, *_mostly_dropped(split))
    for warning in warnings:
        logger.warning("%s", warning)
    listed = [found for _, objects in inputs.sources for found in objects]
    return ReadDocuments(
        documents=tuple(split),
        tokenizer=tokenizer,
        consumed=next_marks({}, listed, unread, parts),
        rejected=rejects.counts,
        warnings=warnings,
        first_reject=rejects.first,
        checked_tasks=leaks.checked() if leaks is not None else (),
    )


def _mostly_dropped(documents: Sequence[TokenizedDocument]) -> list[str]:
    """A sentence for every domain of which the rules leave next to nothing."""
    reasons: dict[str, Counter[str]] = {}
    for row in documents:
        reasons.setdefault(row.document.domain, Counter())[row.reason] += 1
    told: list[str] = []
    for domain, counts in sorted(reasons.items()):
        # What was there before is dropped as it should be.
        rules = Counter({why: n for why, n in counts.items() if why and "duplicate" not in why})
        read = sum(counts.values())
        if read >= _ENOUGH_DOCUMENTS and rules.total() >= _MOST * read:
            (why, often), *_ = rules.most_common(1)
            told.append(
                f"domain {domain}: {rules.total():,} of {read:,} documents were dropped, most for "
                f"{why} ({often:,}); is this the rule that its texts should keep?"
            )
    return told


def _documents(
    inputs: BuildInputs, reject: Callable[[Reject], None], parts: dict[str, ReadPart]
) -> Iterator[Document]:
    """All documents in canonical order: by source, file and position."""
    for source, objects in inputs.sources:
        for document in read_objects(source, objects, reject, parts.__setitem__):
            # Two sources may both have a document 1, and a domain may be fed by both.
            yield replace(document, id=f"{source.name}/{document.id}")


def _capped(
    documents: list[TokenizedDocument], known: KnownDocuments, config: CurateConfig
) -> list[TokenizedDocument]:
    """The documents, those beyond a cap on shares dropped; what will be held out is left alone."""
    if not config.shares:
        return documents
    counted = [
        place
        for place, row in enumerate(documents)
        if not row.reason and known.split_of(key_of(row.document.cluster)) != "holdout"
    ]
    rows = [documents[place] for place in counted]
    domains = sorted({row.document.domain for row in rows})
    sources = sorted({row.document.source for row in rows})
    texts = KeptTexts(
        domains=np.array([domains.index(row.document.domain) for row in rows], np.int64),
        sources=np.array([sources.index(row.document.source) for row in rows], np.int64),
        is_synthetic=np.array([row.document.provenance == "synthetic" for row in rows], np.bool_),
        tokens=np.array([len(row.tokens) for row in rows], np.int64),
        digests=np.array([row.content for row in rows], "S16"),
    )
    caps = {code: caps_of(config.shares, domain) for code, domain in enumerate(domains)}
    capped = list(documents)
    for place, reason in zip(counted, cap_shares(texts, caps).tolist(), strict=True):
        if reason:
            capped[place] = replace(documents[place], split="dropped", reason=reason)
    return capped


def _split(
    documents: Sequence[TokenizedDocument],
    known: KnownDocuments,
    config: HoldoutConfig,
    framing: Framing,
    *,
    lineage: str,
) -> tuple[list[TokenizedDocument], tuple[str, ...]]:
    """The documents with their sides, and what a person should know."""
    rows = (
        SplitRow(
            domain=row.document.domain,
            cluster=row.document.cluster,
            tokens=framed_length(len(row.tokens), framing),
        )
        for row in documents
        if not row.reason
    )
    result = split_by_cluster(rows, known.split_of, config, lineage=lineage)
    split: list[TokenizedDocument] = []
    for row in documents:
        if row.reason:
            split.append(row)
            continue
        side = result.splits[row.document.domain, row.document.cluster]
        reason = HOLDOUT_CAP if side == "dropped" else ""
        split.append(replace(row, split=side, reason=reason))
    return split, result.warnings
