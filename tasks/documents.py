"""What travels between ingestion, curation and packing: documents, rejects, listed source files."""

from dataclasses import dataclass
from typing import Literal

Provenance = Literal["real", "synthetic"]
"""Written by people about the world, or made by a model or a program from other text."""
Change = Literal["new", "grown", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text as its source gave it; decoded, not yet normalised. Holds no lone surrogates."""

    id: str
    """Unique within the source."""
    cluster: str
    """What the holdout is split by (a work, a site, a repository); the id when nothing is known."""
    text: str
    source: str
    """Name of the source."""
    uri: str
    """File that it was read from."""
    position: int
    """Line of JSONL or CSV or row of a table, from 1; 0 when the file is the document."""
    domain: str
    licence: str
    time: str
    """As the source writes it, "" when unknown."""
    date: str = ""
    """Of ``time``: ``2024-05-06``, ``2024-05`` or ``2024``; "" where it is none."""
    language: str = ""
    """As the source says, "" when it does not: a code such as ``en``; of a file of code the name of
    its language, such as ``python``."""
    language_probability: float | None = None
    """From 0 to 1; None when the source says nothing."""
    address: str = ""
    """Where the text was published (a URL), "" when unknown."""
    provenance: Provenance = "real"
    synthetic_of: str = ""
    """What synthetic text was made from or by: an id, a data set, a model."""
    is_page: bool = False
    """Whether the text is a web page, whose main text is yet to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A line, row or file that was quarantined instead of read."""

    uri: str
    position: int
    """Line or row, from 1; 0 for a whole file."""
    reason: str
    """Machine readable: ``malformed_json``, ``bad_utf8``, ..."""
    detail: str
    """For people. Pass it through ``printable`` before it is shown or stored."""


@dataclass(frozen=True, slots=True)
class ReadPart:
    """The beginning of a file that only grows, to the end of a line."""

    num_bytes: int
    num_lines: int
    digest: str
    """XXH3 of 128 bits, as hex: it tells an honest change, not a forged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """One listed file of a source, and what of it is to be read."""

    uri: str
    """Absolute path."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does; ``<size>-<mtime_ns>`` for a local file."""
    licence: str = ""
    """Of the nearest licence file in a tree of text or code, "" where there is none."""
    change: Change = "new"
    """Against what was marked as read."""
    read_before: ReadPart | None = None
    """Of one that has grown: what of it is not read again."""


class SourceRefusedError(Exception):
    """Too much of a source was rejected; the message has counts, examples and the remedy."""


def printable(detail: str, limit: int = 200) -> str:
    """``detail`` cut to ``limit`` characters, with what could confuse a terminal escaped."""
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in detail[:limit]
    )
    return escaped[:limit]
