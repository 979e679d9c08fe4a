"""Which documents are worth training on: normalised, neither too short nor too long, seen once."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import Bounds
from tasks.documents import Document
from training.config import FORBID_UNKNOWN

DropReason = Literal[
    "",
    "duplicate",
    "duplicate_in_batch",
    "too_short",
    "too_long",
    "near_duplicate",
    "near_duplicate_in_batch",
]

_DIGEST_BYTES = 16
# CR is not here: it has become LF by the time this is used.
_CONTROL_BYTES = bytes(code for code in range(32) if chr(code) not in "\n\t")
_CONTROL = re.compile(f"[{re.escape(_CONTROL_BYTES.decode())}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """What is dropped before it is tokenised."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_chars: Annotated[int, Bounds(ge=1, unit="characters")] = 50
    """Shortest document that is kept, surrounding white space not counted."""
    max_chars: Annotated[int, Bounds(ge=1, unit="characters")] = 2_000_000
    """Longest document that is kept."""

    def __post_init__(self) -> None:
        if self.min_chars > self.max_chars:
            raise ValueError(
                f"min_chars {self.min_chars} is above max_chars {self.max_chars}, so every "
                "document would be dropped; lower min_chars or raise max_chars"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """A document with normalised text, and whether it is kept."""

    document: Document
    digest: bytes
    """16 bytes: ``content_digest`` of the text."""
    reason: DropReason
    """Why it is dropped; "" when it is kept."""


def normalise(text: str) -> str:
    """One spelling of a text: NFC, line ends as LF, no control characters but LF and tab.

    Idempotent. Two texts that differ only in what this removes count as the same document.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    encoded = text.encode()
    # Searching the encoded bytes takes a tenth of the time of the pattern, and few texts need it.
    if len(encoded.translate(None, _CONTROL_BYTES)) != len(encoded):
        text = _CONTROL.sub("", text)
    # Last, because removing a control character can bring a letter and its accent together.
    return unicodedata.normalize("NFC", text)


def content_digest(text: str) -> bytes:
    """Identity of a normalised text: the first 16 bytes of the SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]


def curate(
    documents: Iterable[Document], is_known: Callable[[bytes], bool], config: CurateConfig
) -> Iterator[Curated]:
    """Every document, in order, each with its verdict; of equal ones the first is kept.

    Memory grows by one digest a kept document.

    Args:
        documents: In canonical order, which decides who is first.
        is_known: Whether the lineage already has a document of this digest (16 bytes).
        config: Bounds of the length.
    """
    seen: set[bytes] = set()
    for document in documents:
        text = normalise(document.text)
        digest = content_digest(text)
        reason = _length_reason(text, config)
        if not reason and digest in seen:
            reason = "duplicate_in_batch"
        if not reason and is_known(digest):
            reason = "duplicate"
        if not reason:
            seen.add(digest)
        if text != document.text:
            document = replace(document, text=text)
        yield Curated(document=document, digest=digest, reason=reason)


def _length_reason(text: str, config: CurateConfig) -> DropReason:
    if len(text) > config.max_chars:
        return "too_long"
    # Cheap first: stripping copies, and nearly every text is long enough without it.
    if len(text) < config.min_chars or len(text.strip()) < config.min_chars:
        return "too_short"
    return ""
