"""Which documents are worth training on: normalised, by the rules of their domain, seen once."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.annotate import annotate, columns_of, judge, rules_of
from tasks.curation.annotation_table import DELIVERED, Found
from tasks.curation.config import EVERY, DomainRules
from tasks.curation.learned import NOTHING_LEARNED, Learned
from tasks.curation.licences import LicenceRules, licence_reason, licences_of
from tasks.curation.normalise import mend, normalise
from tasks.documents import Document
from tasks.shares import NO_CAPS, ShareCaps
from tasks.sorted_digests import SortedDigests
from tasks.sources import SourceConfig
from training.config import FORBID_UNKNOWN

_DIGEST_BYTES = 16
_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 23


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """What is dropped before it is tokenised."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_chars: Annotated[int, Bounds(ge=1, unit="characters")] = 50
    """Shortest document that is kept, surrounding white space not counted."""
    max_chars: Annotated[int, Bounds(ge=1, unit="characters")] = 2_000_000
    """Longest document that is kept."""
    licences: dict[str, LicenceRules] = field(default_factory=dict[str, LicenceRules])
    """Licences that are allowed or denied, by source; those of ``"*"`` hold for every source that
    is not named."""
    domains: dict[str, DomainRules] = field(default_factory=dict[str, DomainRules])
    """Rules by domain; those of ``"*"`` hold for every domain that is not named."""
    shares: dict[str, ShareCaps] = field(default_factory=dict[str, ShareCaps])
    """Caps on shares by domain; those of ``"*"`` hold for every domain that is not named."""

    def __post_init__(self) -> None:
        if self.min_chars > self.max_chars:
            raise ValueError(
                f"min_chars {self.min_chars} is above max_chars {self.max_chars}, so every "
                "document would be dropped; lower min_chars or raise max_chars"
            )

    @property
    def annotation_columns(self) -> dict[str, str]:
        """Names and Arrow types of what is found of documents."""
        return columns_of(self.domains.values())

    @property
    def scored_domains(self) -> list[str]:
        """Those whose rules ask for the champion."""
        return sorted(name for name, rules in self.domains.items() if rules.perplexity)


def check_rules_are_used(config: CurateConfig, sources: Sequence[SourceConfig]) -> None:
    """Refuse rules for what no source has: they would silently never be applied.

    Raises:
        ValueError: A domain or source is named that does not exist, or a cap on a source's share
            cannot be kept with the sources that there are.
    """
    for key, what, named, known in (
        ("domains", "domain", config.domains, {source.domain for source in sources}),
        ("shares", "domain", config.shares, {source.domain for source in sources}),
        ("licences", "name", config.licences, {source.name for source in sources}),
    ):
        for name in named:
            if name not in (*known, EVERY):
                close = difflib.get_close_matches(name, known, n=1)
                raise ValueError(
                    f"curate.{key}: no source has the {what} {name!r}; expected one of "
                    f"{', '.join(sorted(known))}, or '*' for all that are not named"
                    + (f"; did you mean {close[0]!r}?" if close else "")
                )

    for domain, count in sorted(Counter(source.domain for source in sources).items()):
        cap = caps_of(config.shares, domain).source
        if cap is not None and count * cap < 1:
            raise ValueError(
                f"curate.shares: of domain {domain!r} no source may have more than {cap:g}, which "
                f"needs more than its {count} source{'s' if count > 1 else ''}: every document "
                "would be dropped; raise source, leave it out, or name the domain by itself"
            )


def caps_of(shares: Mapping[str, ShareCaps], domain: str) -> ShareCaps:
    """The caps of a domain."""
    return shares.get(domain) or shares.get(EVERY) or NO_CAPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """A document with normalised text, and whether it is kept."""

    document: Document
    digest: bytes
    """16 bytes: ``content_digest`` of the text."""
    reason: str
    """Why it is dropped, such as ``too_short`` or ``gopher_quality:stop_words``; "" when kept."""


AreKnown: TypeAlias = Callable[[NDArray[np.bytes_]], NDArray[np.bool_]]
"""Given digests, ``S16[n]``; gives which of them are known, ``bool[n]``."""


def none_known(digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """For who has no lineage."""
    return np.zeros(len(digests), np.bool_)


def content_digest(text: str) -> bytes:
    """Identity of a normalised text: the first 16 bytes of the SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]


def _forget(documents: Sequence[Document], found: Sequence[Found]) -> None:
    """Keep no annotations."""


def curate(
    documents: Iterable[Document],
    are_known: AreKnown,
    config: CurateConfig,
    keep_annotations: Callable[[Sequence[Document], Sequence[Found]], None] = _forget,
    learned: Learned = NOTHING_LEARNED,
) -> Iterator[Curated]:
    """Every document, in order, each with its verdict; of equal ones the first is kept.

    Memory grows by 16 bytes a kept document; besides, a batch of documents is held at a time.

    Args:
        documents: In canonical order, which decides who is first.
        are_known: Which digests the lineage already has.
        config: Bounds of the length, and the rules of each domain.
        keep_annotations: Given each batch of documents and what was found of them.
        learned: What the rules need to have learned from the files that they name.
    """
    duplicates = ExactDuplicates(are_known)
    for batch in batches_of(documents):
        ruled, reasons, found = apply_rules(batch, config, learned)
        keep_annotations(ruled, found)
        digests = [content_digest(document.text) for document in ruled]
        for document, digest, reason in zip(
            ruled, digests, duplicates.reasons(digests, reasons), strict=True
        ):
            yield Curated(document=document, digest=digest, reason=reason)


class ExactDuplicates:
    """Drops what equals an earlier document of the batch or of the lineage.

    Args:
        are_known: Which digests the lineage already has.
    """

    def __init__(self, are_known: AreKnown) -> None:
        self._are_known = are_known
        self._seen = SortedDigests()

    def reasons(self, digests: Sequence[bytes], reasons: Sequence[str]) -> list[str]:
        """Why each of the documents that come next is dropped; given reasons stay.

        Args:
            digests: Of the documents, 16 bytes each.
            reasons: Why the rules drop them, "" for what they keep.
        """
        found = list(reasons)
        was_seen = self._seen.has(digests)
        was_known = self._are_known(np.frombuffer(b"".join(digests), f"S{_DIGEST_BYTES}"))
        new: set[bytes] = set()
        for place, digest in enumerate(digests):
            if found[place]:
                continue
            if was_seen[place] or digest in new:
                found[place] = "duplicate_in_batch"
            elif was_known[place]:
                found[place] = "duplicate"
            else:
                new.add(digest)
        self._seen.add(new)
        return found


def apply_rules(
    documents: Sequence[Document], config: CurateConfig, learned: Learned = NOTHING_LEARNED
) -> tuple[list[Document], list[str], list[Found]]:
    """Documents as they would be trained on, why each is dropped, and what was found of them.

    Pure, and no document's result depends on another: batches may be spread over workers.
    """
    places: dict[str, list[int]] = {}
    for place, document in enumerate(documents):
        places.setdefault(document.domain, []).append(place)
    texts = [""] * len(documents)
    reasons = [""] * len(documents)
    found: list[Found] = []
    for domain, inside in places.items():
        rules = rules_of(config.domains, domain)
        spell = mend if rules.mend_encoding else normalise
        normal = [spell(documents[place].text) for place in inside]
        names = [documents[place].uri for place in inside]
        early = [
            licence_reason(
                documents[place].licence, licences_of(config.licences, documents[place].source)
            )
            or _length_reason(text, config)
            for place, text in zip(inside, normal, strict=True)
        ]
        is_kept = np.array([not reason for reason in early], np.bool_)
        annotated = annotate(normal, names, rules, learned, is_kept)
        judged = judge(annotated.numbers, [domain] * len(inside), config.domains)
        numbers = annotated.numbers
        if config.domains:
            delivered = [content_digest(normalise(documents[place].text)) for place in inside]
            numbers |= {DELIVERED: np.array(delivered, object)}
        found.append((inside, numbers))
        for place, before, after, first, reason in zip(
            inside, normal, annotated.texts, early, judged, strict=True
        ):
            reasons[place] = first or reason or _length_reason(after, config)
            # Of a dropped document all is kept that a look at the rules would want to see.
            texts[place] = before if reasons[place] else after
    ruled = [
        document if document.text == text else replace(document, text=text)
        for document, text in zip(documents, texts, strict=True)
    ]
    return ruled, reasons, found


def batches_of(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in order, so many at a time as are curated together."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _length_reason(text: str, config: CurateConfig) -> str:
    if len(text) > config.max_chars:
        return "too_long"
    # Cheap first: stripping copies, and nearly every text is long enough without it.
    if len(text) < config.min_chars or len(text.strip()) < config.min_chars:
        return "too_short"
    return ""
