"""What is to be forgotten: the documents asked for, those alike, and what was derived from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.head import Head
from storage.layout import Layout
from storage.manifest import identity_of
from storage.objects import ObjectStore
from storage.takedowns import ForgottenDocument, UnkeptText
from tasks.curate import content_digest
from tasks.curation.normalise import as_given, normalise
from tasks.forget.hunt import Hunt, tokenizer_of
from tasks.forget.passages import token_windows_of, windows_of
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.signatures import Signatures, signatures_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is to be forgotten."""

    id: str
    """12 hex digits, of all of it."""
    documents: tuple[ForgottenDocument, ...]
    contents: tuple[str, ...]
    """Digests of all texts, also of those that no snapshot has."""
    windows: tuple[str, ...]
    too_short: int
    """Texts that are too short to be searched for."""
    unkept: Mapping[str, UnkeptText]
    """Documents of which no text is there to be searched for, by id."""
    quoting: tuple[str, ...]
    """Snapshots whose lists of rejects, leaks or examples quote any of it."""
    signatures: Signatures | None
    """Of all texts, and of documents that left nothing else; None where near-duplicates are not
    looked for."""


def find(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    *,
    ids: Sequence[str],
    texts: Sequence[str],
    near: NearDuplicateConfig | None,
    work_dir: Path,
) -> Found:
    """Find what is to be forgotten. Changes nothing.

    Documents that were forgotten before are not found again.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        ids: Ids as the sources give them, or with the source's name before: ``web/17``.
        texts: Texts as they were delivered.
        near: What counts as alike; None: only equal texts do.
        work_dir: For local copies of tables and shards.

    Raises:
        CorruptError: A table, a shard or a manifest is damaged.
        ValueError: The lineage has signatures of another kind than ``near``.
    """
    normal = [normalise(text) for text in texts]
    hunt = Hunt(store, layout, head, near, work_dir)
    given_contents = [content_digest(text) for text in sorted(set().union(*map(as_given, texts)))]
    hunt.add_asked(ids, given_contents)
    hunt.add_alike("asked", normal)
    hunt.add_derived()
    # Once, and not until there are no more: copies of copies lead further and further away.
    hunt.add_alike("derived")
    hunt.add_derived()
    spelled = hunt.texts()
    windows: set[str] = set()
    too_short: set[str] = set()
    given = {(text, ()) for text in (*texts, *normal)}
    for text, tokens in (*given, *spelled.values()):
        cut = windows_of(text) | token_windows_of(tokens)
        if not cut:
            too_short.add(normalise(text))
        windows |= cut
    windows |= _tokenised_windows(store, head, normal, work_dir)
    all_texts = [*normal, *(text for text, _ in spelled.values())]
    documents = tuple(hunt.found[place] for place in sorted(hunt.found))
    contents = hunt.contents | {content.hex() for content in given_contents}
    named = [(document.snapshot, document.row) for document in documents]
    return Found(
        id=identity_of({"documents": named, "contents": sorted(contents)})[:12],
        documents=documents,
        contents=tuple(sorted(contents)),
        windows=tuple(sorted(windows)),
        too_short=len(too_short),
        unkept=hunt.unkept(given_contents),
        quoting=hunt.quoting(windows),
        signatures=_joined([signatures_of(all_texts, near.scheme), *hunt.signatures()])
        if near is not None
        else None,
    )


def _tokenised_windows(
    store: ObjectStore, head: Head, texts: Sequence[str], work_dir: Path
) -> set[str]:
    """Windows of the tokens of texts that need not lie in any snapshot."""
    if not texts or head.tokenizer is None:
        return set()
    tokenizer = tokenizer_of(store, head.tokenizer, work_dir)
    return {
        window
        for tokens in tokenizer.encode_batch(list(texts))
        for window in token_windows_of(tokens)
    }


def _joined(parts: Sequence[Signatures]) -> Signatures:
    return Signatures(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.prints for part in parts]),
        np.concatenate([part.is_empty for part in parts]),
    )
