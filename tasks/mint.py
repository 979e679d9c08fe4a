"""From documents to a minted snapshot: pack, upload, mint.

The bytes of a snapshot are a pure function of its inputs.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from storage.layout import Layout
from storage.manifest import canonical_json, content_hash, digest_file
from storage.near_duplicate_index import SEGMENT
from storage.objects import ObjectStore
from storage.snapshots import (
    DOCUMENTS,
    PARAGRAPHS,
    UNIGRAM,
    SnapshotManifest,
    mint,
)
from tasks.build import CONSUMED, BuildInputs, ReadDocuments
from tasks.curation.annotation_table import ANNOTATIONS
from tasks.document_table import write_document_table
from tasks.framing import Framing, framed_length, framing_of
from tasks.near_duplicates.dropped import DROPPED_SEGMENT
from tasks.pack import PackedDomain, first_tokens, pack_domain
from tasks.refresh_progress import RefreshProgress
from tasks.rejects import REJECTS
from tasks.sift import EXAMPLES, LEAKS
from tasks.split import DROPPED

_OF_STAGES = (LEAKS, SEGMENT, DROPPED_SEGMENT, ANNOTATIONS, EXAMPLES, PARAGRAPHS)
"""What stages of a refresh leave that not every lineage has."""


def store_snapshot(
    store: ObjectStore,
    layout: Layout,
    inputs: BuildInputs,
    read: ReadDocuments,
    *,
    work_dir: Path,
    progress: RefreshProgress,
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
    packed = _pack(read, framing, inputs.seq_len, local, progress)
    unigram = np.sum([domain.unigram for domain in packed], axis=0)
    (local / UNIGRAM).write_bytes(unigram.astype("<i8").tobytes())
    (local / CONSUMED).write_bytes(canonical_json(read.consumed))
    left = [name for name in _OF_STAGES if (work_dir / name).exists()]
    for name in (REJECTS, *left):
        (work_dir / name).rename(local / name)
    names = [DOCUMENTS, REJECTS, UNIGRAM, CONSUMED, *left]
    files = [file for domain in packed for file in domain.files]
    files += [digest_file(local / name, name) for name in names]
    prefix = layout.snapshot(inputs.identity[:12])
    for done, file in enumerate(files, 1):
        store.put_file(f"{prefix}/{file.name}", local / file.name)
        progress.stage("files", done, len(files))
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
        checked_tasks=read.checked_tasks,
        checked_suite=inputs.checked_suite,
    )
    return mint(store, layout, manifest)


def _pack(
    read: ReadDocuments, framing: Framing, seq_len: int, directory: Path, progress: RefreshProgress
) -> list[PackedDomain]:
    """Write the shards of all domains and the table of documents into ``directory``."""
    documents, splits = read.documents, read.settled.splits
    with_documents = set(documents.domains[splits != DROPPED].tolist())
    domains = sorted(with_documents, key=documents.domain_names.__getitem__)
    packed: list[PackedDomain] = []
    for done, domain in enumerate(domains, 1):
        packed.append(
            pack_domain(
                documents, domain, read.settled, framing, seq_len=seq_len, directory=directory
            )
        )
        progress.stage("domains", done, len(domains))
    write_document_table(
        documents,
        directory / DOCUMENTS,
        settled=read.settled,
        lengths=np.where(documents.lengths > 0, framed_length(documents.lengths, framing), 0),
        first_tokens=first_tokens(documents, splits, framing),
    )
    return packed
