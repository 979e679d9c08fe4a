"""Documents of a refresh made by hand, as they are prepared and spooled."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.documents import Document, Reject
from tasks.encode import Encoded, Legible
from tasks.prepare import Prepared
from tasks.split import rank_of
from tasks.spool import DocumentSpool, SpooledDocuments


def document(name: str, text: str = "", domain: str = "web") -> Document:
    """A document of which little is known."""
    return Document(
        id=name,
        cluster=f"cluster of {name}",
        text=text,
        source="s",
        uri="/data/s",
        position=1,
        domain=domain,
        licence="cc0",
        time="",
    )


def prepared(
    documents: Sequence[Document],
    tokens: Sequence[Sequence[int]] | None = None,
    rejects: Sequence[Reject] = (),
) -> Prepared:
    """A batch of documents that the rules keep; without tokens, one with texts."""
    lengths = np.array([len(own) for own in tokens or ()], np.int64)
    joined = np.array([token for own in tokens or () for token in own], np.uint16)
    digests = tuple(item.id.encode().ljust(16, b".")[:16] for item in documents)
    legible = tuple(map(_legible, documents, digests))
    return Prepared(
        rejects=tuple(rejects),
        documents=tuple(replace(item, text="") for item in documents),
        digests=digests,
        reasons=("",) * len(documents),
        found=(),
        excerpts=tuple(item.text[:300] for item in documents),
        text_bytes=3 * lengths if tokens is not None else np.zeros(len(documents), np.int64),
        leaks={},
        looked_at=np.arange(len(documents)),
        signatures=None,
        paragraphs=None,
        encoded=Encoded(joined, lengths) if tokens is not None else None,
        legible=() if tokens is not None else legible,
    )


def _legible(document: Document, digest: bytes) -> Legible:
    return Legible(document.text, digest, document.id, document.uri)


def spooled(
    directory: Path,
    documents: Sequence[Document],
    tokens: Sequence[Sequence[int]],
    reasons: Sequence[str] | None = None,
    at_once: int = 100,
) -> SpooledDocuments:
    """The documents on disk, ``reasons`` why each is dropped."""
    directory.mkdir()
    spool = DocumentSpool(directory, lambda domain, cluster: rank_of("demo", domain, cluster))
    reasons = reasons or [""] * len(documents)
    for first in range(0, len(documents), at_once):
        batch = slice(first, first + at_once)
        spool.add(prepared(documents[batch], tokens[batch]), reasons[batch])
    return spool.close("uint16")
