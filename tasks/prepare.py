"""All of a document that depends on no other: rules, digest, task items, signature and tokens.

A batch gives the same wherever it is prepared, and with whatever other batches: in this process, or
by any number of workers. What depends on earlier documents is ``tasks.sift``'s.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.near_duplicate_segment import SignatureScheme
from tasks.curate import CurateConfig, apply_rules, content_digest
from tasks.curation.annotate import rules_of
from tasks.curation.annotation_table import Found
from tasks.curation.learned import Learned
from tasks.decontamination.screen import Leak, LeakFinder, Sought
from tasks.documents import Document, Reject
from tasks.encode import DocumentEncoder, Encoded, Legible
from tasks.near_duplicates.signatures import Signatures, signatures_of
from tasks.paragraphs import ParagraphRules, Paragraphs, paragraphs_of
from tasks.reading.html import with_main_text

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

EXCERPT_CHARACTERS = 300
"""Of a text, for people who look at what was dropped."""

Batch: TypeAlias = Sequence[Document | Reject]
"""What was read, in canonical order."""
TokenizerFiles: TypeAlias = Mapping[str, bytes]
"""Of the directory of a tokenizer, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is found out of each document."""

    curate: CurateConfig
    learned: Learned
    """What the rules learned from the files that they name."""
    sought: Sought | None
    """Task items that are looked for; None: there are none."""
    scheme: SignatureScheme | None
    """Of the signatures; None: none are made."""
    certificates: Path
    """Of ``DocumentEncoder``, on whatever machine; made there."""


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A batch of documents without their texts, and what was found of each."""

    rejects: tuple[Reject, ...]
    documents: tuple[Document, ...]
    """With an empty text."""
    digests: tuple[bytes, ...]
    """``content_digest`` of the normalised text, 16 bytes each."""
    reasons: tuple[str, ...]
    """Why the rules drop it, "" for what they keep."""
    found: tuple[Found, ...]
    """What the rules found."""
    excerpts: tuple[str, ...]
    """The beginning of the normalised text."""
    text_bytes: NDArray[np.int64]
    """Bytes of the normalised text as UTF-8."""
    leaks: Mapping[int, tuple[Leak, ...]]
    """Task items that a document gives away, by its place."""
    looked_at: NDArray[np.int64]
    """Places of the documents that the rules keep and that equal no earlier one of the batch: of
    these alone there is what follows."""
    signatures: Signatures | None
    paragraphs: Paragraphs | None
    encoded: Encoded | None
    legible: tuple[Legible, ...] = ()
    """The texts, where there is no tokenizer yet."""
    scoring_seconds: float = 0.0
    """Of processors, that the champion took."""


class Preparer:
    """Prepares batches.

    Args:
        preparation: What is found out.
        tokenizer: None: there is none yet, and the texts are handed on.
    """

    def __init__(self, preparation: Preparation, tokenizer: "Tokenizer | None") -> None:
        self._preparation = preparation
        sought = preparation.sought
        self._leaks = LeakFinder(sought) if sought is not None else None
        self._encoder = (
            DocumentEncoder(tokenizer, preparation.certificates) if tokenizer is not None else None
        )

    def __call__(self, batch: Batch) -> Prepared:
        """Prepare one batch.

        Raises:
            EncodingMismatchError: The fast path of the tokenizer is wrong.
        """
        champion = self._preparation.learned.champion
        scored_before = champion.seconds if champion is not None else 0.0
        items = [with_main_text(item) if isinstance(item, Document) else item for item in batch]
        rejects = tuple(item for item in items if isinstance(item, Reject))
        read = [item for item in items if isinstance(item, Document)]
        ruled, reasons, found = apply_rules(
            read, self._preparation.curate, self._preparation.learned
        )
        digests = tuple(content_digest(document.text) for document in ruled)
        places = _looked_at(digests, reasons)
        kept = [ruled[place] for place in places]
        scheme = self._preparation.scheme
        texts = [document.text for document in kept]
        legible = tuple(
            Legible(document.text, digests[place], document.id, document.uri)
            for place, document in zip(places, kept, strict=True)
        )
        return Prepared(
            rejects=rejects,
            documents=tuple(replace(document, text="") for document in ruled),
            digests=digests,
            reasons=tuple(reasons),
            found=tuple(found),
            excerpts=tuple(document.text[:EXCERPT_CHARACTERS] for document in ruled),
            text_bytes=np.array([len(document.text.encode()) for document in ruled], np.int64),
            leaks=self._leaks_in(kept, places),
            looked_at=np.array(places, np.int64),
            signatures=signatures_of(texts, scheme) if scheme is not None else None,
            paragraphs=paragraphs_of(texts, self._paragraph_rules(kept)),
            encoded=self._encoder.encode(legible) if self._encoder is not None else None,
            legible=legible if self._encoder is None else (),
            scoring_seconds=champion.seconds - scored_before if champion is not None else 0.0,
        )

    def _paragraph_rules(self, kept: Sequence[Document]) -> list[ParagraphRules | None]:
        domains = self._preparation.curate.domains
        return [rules_of(domains, document.domain).paragraphs for document in kept]

    def _leaks_in(
        self, kept: Sequence[Document], places: Sequence[int]
    ) -> dict[int, tuple[Leak, ...]]:
        if self._leaks is None:
            return {}
        found = self._leaks.leaks_in(kept)
        return {place: leaks for place, leaks in zip(places, found, strict=True) if leaks}


def files_of(tokenizer: "Tokenizer") -> TokenizerFiles:
    """The files of a tokenizer, for workers on other machines."""
    from training.tokenizer import TOKENIZER_FILES  # noqa: PLC0415  imports tokenizers

    paths = [tokenizer.directory / name for name in TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def open_preparer(preparation: Preparation, files: TokenizerFiles | None) -> Preparer:
    """A preparer in a process of its own."""
    return Preparer(preparation, open_files(files) if files is not None else None)


def open_encoder(certificates: Path, files: TokenizerFiles) -> "partial[Encoded]":
    """What encodes batches of ``Legible`` in a process of its own."""
    return partial(DocumentEncoder.encode, DocumentEncoder(open_files(files), certificates))


def open_files(files: TokenizerFiles) -> "Tokenizer":
    """The tokenizer that has these files, which lie here until the process ends."""
    from training.tokenizer import load_tokenizer  # noqa: PLC0415  imports tokenizers

    directory = Path(tempfile.mkdtemp(prefix="perennial-tokenizer-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    for name, body in files.items():
        (directory / name).write_bytes(body)
    return load_tokenizer(directory)


def _looked_at(digests: Sequence[bytes], reasons: Sequence[str]) -> list[int]:
    """Places of what may be kept: the rules keep it, and nothing before it in the batch is equal.

    Of equal ones that the rules keep the first decides, whatever came before the batch.
    """
    seen: set[bytes] = set()
    places: list[int] = []
    for place, (digest, reason) in enumerate(zip(digests, reasons, strict=True)):
        if not reason and digest not in seen:
            seen.add(digest)
            places.append(place)
    return places
