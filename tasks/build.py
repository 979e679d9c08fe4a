"""From source files to tokenised, split documents, which ``tasks.mint`` makes a snapshot of.

read in batches -> prepared, each on its own, here or by workers of Ray -> sifted in canonical order
-> spooled to the local disk -> split. What is in memory is a few batches a worker and some tens of
bytes a document, however much text there is.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from storage.head import SnapshotRole
from storage.known_documents import KnownDocuments
from storage.near_duplicate_index import SEGMENT, NearDuplicateIndex
from storage.snapshots import DOCUMENTS, PARAGRAPHS, UNIGRAM, CheckedTask
from storage.takedowns import NOTHING_KEPT_OUT, KeptOut
from tasks.curate import CurateConfig
from tasks.curation.annotation_table import ANNOTATIONS, AnnotationWriter, read_annotations
from tasks.curation.champion import Scoring
from tasks.curation.learned import NOTHING_LEARNED, Learned
from tasks.curation.pii import PREFIX as PII_COLUMNS
from tasks.curation.pii import describe_found
from tasks.decontamination.screen import Sought
from tasks.documents import Reject
from tasks.drop_reasons import mostly_dropped
from tasks.edited import HeldOutOfFiles
from tasks.encode import DocumentEncoder, Encoded, Legible
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.dropped import DROPPED_SEGMENT
from tasks.prepare import (
    Batch,
    Preparation,
    Prepared,
    Preparer,
    files_of,
    open_encoder,
    open_preparer,
)
from tasks.refresh_progress import RefreshProgress
from tasks.rejects import REJECTS, RejectWriter
from tasks.settle import Settled, SettleRules, settle
from tasks.sift import EXAMPLES, LEAKS, Sifter
from tasks.source_reading import SourceFiles, SourceReading, Told
from tasks.split import DROPPED, TRAIN, HoldoutConfig, rank_of
from tasks.spool import DocumentSpool, SpooledDocuments
from tasks.staff import Staff, Workers
from tasks.text_spool import TextSpool

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CONSUMED = "consumed.json"
"""Marks of the files that the snapshot was read from: entity tag by URI."""
RESERVED_NAMES = frozenset(
    {
        "manifest.json",
        ANNOTATIONS,
        CONSUMED,
        DOCUMENTS,
        DROPPED_SEGMENT,
        EXAMPLES,
        LEAKS,
        PARAGRAPHS,
        REJECTS,
        SEGMENT,
        UNIGRAM,
    }
)
"""What no domain can be called, because its shards would lie under the key of a file."""


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


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadDocuments:
    """All documents of a refresh, tokenised and split, before anything is stored."""

    documents: SpooledDocuments
    settled: Settled
    tokenizer: "Tokenizer"
    consumed: dict[str, str]
    """Marks of the files that could be read."""
    dropped: dict[str, int]
    """Documents by the reason why they were dropped."""
    rejected: dict[str, int]
    """Lines, rows and files by reason."""
    warnings: tuple[str, ...]
    first_reject: Reject | None = None
    checked_tasks: tuple[CheckedTask, ...] = ()
    """What was looked for in the documents."""

    @property
    def num_train(self) -> int:
        """Documents to train on."""
        return int((self.settled.splits == TRAIN).sum())

    @property
    def num_kept(self) -> int:
        """Documents to train on and held-out ones."""
        return int((self.settled.splits != DROPPED).sum())

    @property
    def num_kept_tokens(self) -> int:
        """Tokens of the kept documents, without framing."""
        return int(self.documents.lengths[self.settled.splits != DROPPED].sum())


def read_and_split(
    inputs: BuildInputs,
    tokenizer: "Tokenizer | int",
    known: KnownDocuments,
    index: NearDuplicateIndex,
    *,
    lineage: str,
    work_dir: Path,
    certificates: Path,
    progress: RefreshProgress,
    workers: Workers,
    held_out: HeldOutOfFiles,
    kept_out: KeptOut = NOTHING_KEPT_OUT,
) -> ReadDocuments:
    """Read, curate, tokenise and split. Stores nothing.

    What stages leave goes to ``work_dir``: rejects, annotations, leaks, signatures, examples.

    Args:
        inputs: What to read and how.
        tokenizer: To use, or the vocab_size of one to be trained on the kept documents.
        known: What the lineage has already.
        index: Of the near-duplicates of what it has.
        lineage: Name of the lineage.
        work_dir: Empty local directory.
        certificates: Local directory of ``DocumentEncoder``; may be missing.
        progress: Told what is read, and what became of it.
        workers: Who prepares documents; no influence on the result.
        kept_out: What was taken down; nothing of it is shown.
        held_out: What is held out of files that were replaced.

    Raises:
        SourceRefusedError: Too much of a source cannot be read.
        EncodingMismatchError: The fast path of the tokenizer is wrong.
        TrainingError: Ray lost its workers too often, or has no room for one.
    """
    spooled = work_dir / "spool"
    spooled.mkdir()
    reading = SourceReading(inputs.sources, spooled)
    champion = inputs.learned.champion
    scoring = Scoring(champion, inputs.curate.scored_domains)
    stages = _Stages(
        sifter=Sifter(known, inputs.sought, inputs.near_duplicates, index, spooled, kept_out),
        spool=DocumentSpool(spooled, partial(rank_of, lineage)),
        texts=TextSpool(spooled),
    )
    staff = workers.for_bytes(reading.bytes_total, are_scored=champion is not None)
    preparing = _Preparing(inputs, certificates, staff)
    given = None if isinstance(tokenizer, int) else tokenizer
    # Not by a name, under which the encoder and its cache would stay.
    rejects = _hand_over(
        preparing.prepared(reading.batches(), given),
        stages,
        scoring,
        inputs,
        reading,
        progress,
        work_dir,
    )
    if isinstance(tokenizer, int):
        tokenizer = stages.encode(work_dir / "tokenizer", tokenizer, preparing)
    scoring.log()
    sifted = stages.sifter.finish(work_dir, inputs.identity[:12])
    documents = stages.spool.close(tokenizer.token_dtype)
    # Settling takes memory, and what was seen is not needed any more.
    del stages
    rules = SettleRules(inputs.curate, inputs.holdout, held_out, lineage)
    settled = settle(documents, known, rules, tokenizer)
    dropped = sifted.dropped_by_reason + settled.dropped
    warnings = [
        *settled.warnings,
        *_personal_data(work_dir),
        *_mostly_dropped(documents, sifted.dropped),
        *scoring.warnings,
    ]
    for warning in warnings:
        logger.warning("%s", warning)
    return ReadDocuments(
        documents=documents,
        settled=settled,
        tokenizer=tokenizer,
        consumed=reading.marks(),
        dropped=dict(sorted(dropped.items())),
        rejected=rejects.counts,
        warnings=tuple(warnings),
        first_reject=rejects.first,
        checked_tasks=sifted.checked,
    )


def _hand_over(
    batches: Iterable[Prepared],
    stages: "_Stages",
    scoring: Scoring,
    inputs: BuildInputs,
    reading: SourceReading,
    progress: RefreshProgress,
    work_dir: Path,
) -> RejectWriter:
    """Give every batch to whom it concerns, in order; returns what was rejected."""
    with (
        RejectWriter(work_dir / REJECTS) as rejects,
        AnnotationWriter(
            work_dir / ANNOTATIONS,
            inputs.curate.annotation_columns,
            inputs.learned.digests,
            scoring.identity,
        ) as annotations,
    ):
        told = Told(progress, reading, rejects)
        for prepared in batches:
            for reject in prepared.rejects:
                rejects.add(reject)
            annotations.add(prepared.documents, prepared.found)
            scoring.add(prepared.found, prepared.scoring_seconds)
            told.add(prepared, stages.add(prepared))
    return rejects


@dataclass(frozen=True, slots=True)
class _Stages:
    """Where prepared documents go."""

    sifter: Sifter
    spool: DocumentSpool
    texts: TextSpool
    """Of what is kept, where a tokenizer is yet to be trained on it."""

    def add(self, prepared: Prepared) -> list[str]:
        """Take the next batch; returns why each document is dropped, "" for what is kept."""
        reasons = self.sifter.reasons(prepared)
        if prepared.encoded is None:
            self.texts.add(prepared, reasons, self.spool.num_documents)
        self.spool.add(prepared, reasons)
        return reasons

    def encode(self, directory: Path, vocab_size: int, preparing: "_Preparing") -> "Tokenizer":
        """Train a tokenizer on what is kept, and add its tokens."""
        from training.tokenizer_training import train_tokenizer  # noqa: PLC0415  imports tokenizers

        tokenizer = train_tokenizer(self.texts.texts(), directory, vocab_size=vocab_size)
        encoded = preparing.encoded(self.texts.batches(), tokenizer)
        for rows, tokens in zip(self.texts.rows(), encoded, strict=True):
            self.spool.add_tokens(rows, tokens)
        return tokenizer


@dataclass(frozen=True, slots=True)
class _Preparing:
    """Who prepares batches, and how."""

    inputs: BuildInputs
    certificates: Path
    staff: Staff

    def prepared(
        self, batches: Iterable[Batch], tokenizer: "Tokenizer | None"
    ) -> Iterator[Prepared]:
        """What is found out of each batch, in order."""
        near = self.inputs.near_duplicates
        preparation = Preparation(
            curate=self.inputs.curate,
            learned=self.inputs.learned,
            sought=self.inputs.sought,
            scheme=near.scheme if near is not None else None,
            certificates=self.certificates,
        )
        if self.staff.is_here:
            return map(Preparer(preparation, tokenizer), batches)
        files = files_of(tokenizer) if tokenizer is not None else None
        return self.staff.apply(partial(open_preparer, preparation, files), batches)

    def encoded(
        self, batches: Iterable[Sequence[Legible]], tokenizer: "Tokenizer"
    ) -> Iterator[Encoded]:
        """The tokens of each batch, in order."""
        if self.staff.is_here:
            return map(DocumentEncoder(tokenizer, self.certificates).encode, batches)
        files = files_of(tokenizer)
        return self.staff.apply(partial(open_encoder, self.certificates, files), batches)


def _personal_data(work_dir: Path) -> list[str]:
    if not (work_dir / ANNOTATIONS).exists():
        return []
    _, numbers = read_annotations(work_dir / ANNOTATIONS, PII_COLUMNS)
    found = describe_found(numbers)
    return [found] if found else []


def _mostly_dropped(
    documents: SpooledDocuments, dropped: Mapping[tuple[str, str], int]
) -> list[str]:
    """A sentence for every domain of which the rules leave next to nothing."""
    domains: dict[str, Counter[str]] = {}
    for code, domain in enumerate(documents.domain_names):
        reasons = Counter({why: n for (of, why), n in dropped.items() if of == domain})
        reasons[""] = int((documents.domains == code).sum()) - reasons.total()
        domains[domain] = reasons
    return list(mostly_dropped(domains).values())
