"""From source files to a minted snapshot: read, curate, tokenise, split, pack, upload.

Texts pass through in batches; what stays in memory is an array of tokens and a few strings a
document. The bytes of a snapshot are a pure function of its inputs.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from storage.head import SnapshotRole
from storage.layout import Layout
from storage.manifest import canonical_json, content_hash, digest_file
from storage.objects import ObjectStore
from storage.snapshots import DOCUMENTS, UNIGRAM, KnownDocuments, SnapshotManifest, mint
from tasks.curate import CurateConfig, curate
from tasks.document_table import write_document_table
from tasks.documents import Document, Reject, SourceObject
from tasks.encode import DocumentEncoder
from tasks.ingest import next_marks, read_objects
from tasks.pack import Framing, PackedDomain, framed_length, pack_domain
from tasks.rejects import REJECTS, RejectWriter
from tasks.sources import SourceConfig
from tasks.split import HOLDOUT_CAP, HoldoutConfig, SplitRow, split_by_cluster
from tasks.tokenize import TokenizedDocument, tokenize_documents, train_on

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CONSUMED = "consumed.json"
"""Marks of the files that the snapshot was read from: entity tag by URI."""
RESERVED_NAMES = frozenset({"manifest.json", DOCUMENTS, REJECTS, CONSUMED, UNIGRAM})
"""What no domain can be called, because its shards would lie under the key of a file."""

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
    holdout: HoldoutConfig
    seq_len: int
    role: SnapshotRole


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
    *,
    lineage: str,
    work_dir: Path,
    certificates: Path,
    progress: Progress,
) -> ReadDocuments:
    """Read, curate, tokenise and split; the rejects go to ``work_dir``. Stores nothing.

    Args:
        inputs: What to read and how.
        tokenizer: To use, or the vocab_size of one to be trained on the kept documents.
        known: What the lineage has already.
        lineage: Name of the lineage.
        work_dir: Empty local directory.
        certificates: Local directory of ``DocumentEncoder``; may be missing.
        progress: Told how many documents are done.

    Raises:
        SourceRefusedError: Too much of a source cannot be read.
        EncodingMismatchError: The fast path of the tokenizer is wrong.
    """
    unread: list[Reject] = []
    with RejectWriter(work_dir / REJECTS) as rejects:

        def reject(item: Reject) -> None:
            rejects.add(item)
            if not item.position:
                unread.append(item)

        curated = curate(_documents(inputs, reject), known.has, inputs.curate)
        if isinstance(tokenizer, int):
            tokenizer, curated = train_on(curated, work_dir, vocab_size=tokenizer)
        documents = tokenize_documents(
            curated,
            DocumentEncoder(tokenizer, certificates),
            lambda done: progress("documents", done, 0),
        )
    framing = framing_of(tokenizer)
    split, warnings = _split(documents, known, inputs.holdout, framing, lineage=lineage)
    for warning in warnings:
        logger.warning("%s", warning)
    listed = [found for _, objects in inputs.sources for found in objects]
    return ReadDocuments(
        documents=tuple(split),
        tokenizer=tokenizer,
        consumed=next_marks({}, listed, unread),
        rejected=rejects.counts,
        warnings=warnings,
        first_reject=rejects.first,
    )


def store_snapshot(
    store: ObjectStore,
    layout: Layout,
    inputs: BuildInputs,
    read: ReadDocuments,
    *,
    work_dir: Path,
    progress: Progress,
) -> SnapshotManifest:
    """Pack what was read, upload it and mint the snapshot. Safe to retry in a new ``work_dir``.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        inputs: The same that ``read_and_split`` was given.
        read: What it returned.
        work_dir: The same directory, with the rejects in it.
        progress: Told how many domains are packed and how many files are uploaded.
    """
    from training.tokenizer import keep_tokenizer  # noqa: PLC0415  imports tokenizers

    tokenizer, framing = read.tokenizer, framing_of(read.tokenizer)
    # All that is uploaded lies in one directory, apart from the texts and the tokenizer.
    local = work_dir / "snapshot"
    local.mkdir()
    packed = _pack(read.documents, framing, inputs.seq_len, local, progress)
    unigram = np.sum([domain.unigram for domain in packed], axis=0)
    (local / UNIGRAM).write_bytes(unigram.astype("<i8").tobytes())
    (local / CONSUMED).write_bytes(canonical_json(read.consumed))
    (work_dir / REJECTS).rename(local / REJECTS)
    names = (DOCUMENTS, REJECTS, UNIGRAM, CONSUMED)
    files = [file for domain in packed for file in domain.files]
    files += [digest_file(local / name, name) for name in names]
    prefix = layout.snapshot(inputs.identity[:12])
    for done, file in enumerate(files, 1):
        store.put_file(f"{prefix}/{file.name}", local / file.name)
        progress("files", done, len(files))
    manifest = SnapshotManifest(
        id=inputs.identity[:12],
        lineage=layout.lineage,
        identity=inputs.identity,
        content=content_hash(files),
        role=inputs.role,
        minted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        tokenizer=keep_tokenizer(store, layout, tokenizer),
        vocab_size=tokenizer.vocab_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        seq_len=inputs.seq_len,
        token_dtype=tokenizer.token_dtype,
        domains=tuple(domain.slice for domain in packed),
        documents_read=len(read.documents),
        documents_dropped=read.dropped,
        lines_rejected=read.rejected,
        files=tuple(files),
    )
    return mint(store, layout, manifest)


def framing_of(tokenizer: "Tokenizer") -> Framing:
    """What packing needs to know of ``tokenizer``."""
    return Framing(
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        token_dtype=tokenizer.token_dtype,
        vocab_size=tokenizer.vocab_size,
    )


def _documents(inputs: BuildInputs, reject: Callable[[Reject], None]) -> Iterator[Document]:
    """All documents in canonical order: by source, file and position."""
    for source, objects in inputs.sources:
        for document in read_objects(source, objects, reject):
            # Two sources may both have a document 1, and a domain may be fed by both.
            yield replace(document, id=f"{source.name}/{document.id}")


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


def _pack(
    documents: Sequence[TokenizedDocument],
    framing: Framing,
    seq_len: int,
    directory: Path,
    progress: Progress,
) -> list[PackedDomain]:
    """Write the shards of all domains and the table of documents into ``directory``."""
    domains = sorted({row.document.domain for row in documents if row.split != "dropped"})
    first_tokens = np.full(len(documents), -1, np.int64)
    packed: list[PackedDomain] = []
    for done, domain in enumerate(domains, 1):
        places = [i for i, row in enumerate(documents) if row.document.domain == domain]
        packed.append(
            pack_domain(
                domain,
                [documents[place] for place in places],
                framing,
                seq_len=seq_len,
                directory=directory,
            )
        )
        first_tokens[places] = packed[-1].first_tokens
        progress("domains", done, len(domains))
    lengths = [
        framed_length(len(row.tokens), framing) if row.tokens.size else 0 for row in documents
    ]
    write_document_table(
        documents,
        directory / DOCUMENTS,
        lengths=np.array(lengths, np.int64),
        first_tokens=first_tokens,
    )
    return packed
