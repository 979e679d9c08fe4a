"""What a source is: where its files lie and which format each has. Reads names, never contents."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from infra.bounds import Bounds
from storage.layout import check_name
from tasks.documents import Provenance
from tasks.line_stream import Compression
from tasks.readers import FieldNames
from tasks.reading.code import LANGUAGES
from training.config import FORBID_UNKNOWN

FileFormat = Literal["jsonl", "csv", "parquet", "arrow", "warc", "html", "text", "code"]

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst")
CODE_SUFFIXES = tuple(LANGUAGES)
COMPRESSED = ("", ".gz", ".zst", ".bz2")
_SUFFIXES: dict[FileFormat, tuple[str, ...]] = {
    # Not .json: in a tree of code that is one object over many lines.
    "jsonl": (
        *(f"{suffix}{packed}" for suffix in (".jsonl", ".ndjson") for packed in COMPRESSED),
        *(f".json{packed}" for packed in COMPRESSED if packed),
    ),
    "csv": tuple(f"{suffix}{packed}" for suffix in (".csv", ".tsv") for packed in COMPRESSED),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "warc": tuple(f"{suffix}{packed}" for suffix in (".warc", ".wet") for packed in COMPRESSED),
    "html": (".html", ".htm", ".xhtml"),
}
"""Of the formats that are read by their own rules; of text and code see ``suffixes``."""
EVERYTHING = "**/*"
_HARMLESS_BYTES = 1 << 28
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](?:/|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where new documents come from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    name: str
    """Names the source within the lineage."""
    uri: str
    """A file, a directory (everything below it) or a pattern with ``*``, ``?``, ``[...]`` and, for
    any directories, ``**``; a path, a ``file://`` URI or ``s3://bucket/key``. Hidden files are left
    out. Credentials of a bucket come from the environment, a profile or the machine's role."""
    domain: str
    """Domain that its documents belong to."""
    licence: str = "unknown"
    """Licence of its documents, free text; goes into the record of every document. In a tree of
    text or code a LICENSE or COPYING of known wording goes first, the nearest one up the tree, and
    an SPDX-License-Identifier in a file of code before that."""
    provenance: Provenance = "real"
    """``synthetic``: its documents were made by a model or a program."""
    synthetic_of: str = ""
    """What synthetic documents were made from or by: a data set, a model."""
    format: Literal["auto", "jsonl", "csv", "parquet", "arrow", "warc", "html", "text", "code"] = (
        "auto"
    )
    """``auto``: by file suffix. ``jsonl`` and ``csv`` (``.tsv`` too): plain, or packed as ``.gz``,
    ``.zst``, ``.bz2``. ``arrow``: files (Feather) and streams. ``warc``: web archives (``.wet``
    too), plain or packed. ``html``: web pages, of which the main text is taken. ``text`` and
    ``code``: one document a file."""
    fields: FieldNames = field(default_factory=FieldNames)
    """Which field of a JSON object or column of a table means what."""
    suffixes: tuple[str, ...] = ()
    """``auto``, ``text``, ``code``: suffixes of the files that are one document each; the common
    ones when not set."""
    cluster_by: Literal["document", "file", "directory", "site"] = "document"
    """What must not straddle the holdout: a document, a file, a directory directly below the fixed
    part of ``uri`` (one repository of a tree), or the site of the document's address (of a web
    archive, or ``fields.address``; without one the document). ``fields.cluster`` goes first."""
    reject_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.05
    """Largest tolerated share of rejected lines, rows and files; above it the source is refused.
    Files without any text and pages without a main text are listed among the rejects and do
    not count."""
    max_document_bytes: Annotated[int, Bounds(gt=0, unit="bytes")] = 10_000_000
    """Largest document, as it is stored (of JSONL the line, of CSV the row); larger ones are
    rejected."""

    max_expansion: Annotated[float, Bounds(ge=1)] = 200.0
    """How many times its own size a packed file may have unpacked; the rest of a larger one is not
    read (``expansion``). What unpacks to less than 256 MB is always read."""
    max_unpacked_bytes: Annotated[int, Bounds(gt=0, unit="bytes")] = 10**12
    """What a packed file may have unpacked, whatever its own size."""

    def __post_init__(self) -> None:
        check_name(self.name, "source")
        check_name(self.domain, "domain")
        if self.synthetic_of and self.provenance != "synthetic":
            raise ValueError(
                f"source {self.name!r} is synthetic_of {self.synthetic_of!r} and its provenance "
                f"{self.provenance!r}; set provenance: synthetic"
            )
        if any("**" in part and part != "**" for part in _local_path(self).split("/")):
            raise ValueError(
                f"uri {self.uri!r} of source {self.name!r} has '**' next to other characters; it "
                "stands for directories and must be a whole path component, as in 'data/**/*.txt'"
            )
        wrong = [suffix for suffix in self.suffixes if not suffix.startswith(".")]
        if wrong:
            raise ValueError(
                f"suffix {wrong[0]!r} of source {self.name!r} does not start with a dot; "
                f"write {'.' + wrong[0]!r}"
            )

    def unpacked_limit(self, size: int) -> int:
        """Bytes that a packed file of ``size`` bytes may have unpacked."""
        return min(self.max_unpacked_bytes, max(_HARMLESS_BYTES, int(self.max_expansion * size)))

    @property
    def document_suffixes(self) -> tuple[str, ...]:
        """Suffixes of files that are one document each."""
        common = {
            "auto": TEXT_SUFFIXES + CODE_SUFFIXES,
            "text": TEXT_SUFFIXES,
            "code": CODE_SUFFIXES,
        }
        return self.suffixes or common.get(self.format, ())


def root_and_pattern(source: SourceConfig) -> tuple[Path, str]:
    """The fixed part of the URI, absolute, and the pattern of what is meant below it."""
    path = _absolute(source)
    if path.is_dir():
        return path, EVERYTHING
    if path.exists():
        return path.parent, "".join(f"[{c}]" if c in "*?[" else c for c in path.name)
    parts = path.parts
    magic = (index for index, part in enumerate(parts) if set(part) & set("*?["))
    fixed = next(magic, len(parts) - 1)
    pattern = "/".join(parts[fixed:])
    # On its own ** matches directories only, which nobody means.
    return Path(*parts[:fixed]), f"{pattern}/*" if parts[-1] == "**" else pattern


def is_claimed(source: SourceConfig, name: str, *, is_named: bool, by_pattern: bool) -> bool:
    """Whether a file that the URI matches is meant to be read.

    Args:
        source: Whose URI it is.
        name: Of the file, without its directory.
        is_named: The URI is this very file.
        by_pattern: The URI says more than a directory.
    """
    if source.format != "auto" and is_named:
        return True
    # Who writes a pattern says which files are meant: part-00000 is JSONL when the format says so.
    if source.format in _SUFFIXES and by_pattern:
        return True
    return _format_by_suffix(source, name) is not None


def is_named(source: SourceConfig, path: Path) -> bool:
    """Whether a local source's URI is this very file."""
    return path == _absolute(source)


def format_of(source: SourceConfig, name: str) -> FileFormat:
    """How to read a file of the source."""
    if source.format in _SUFFIXES:
        return source.format
    return _format_by_suffix(source, name) or ("code" if source.format == "code" else "text")


def compression_of(name: str) -> Compression:
    """Compression by the last suffix."""
    packed: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".bz2": "bz2"}
    return packed.get(Path(name.lower()).suffix, "")


def delimiters_of(name: str) -> str:
    """Delimiters that a table of this name may have, the likeliest first."""
    return "\t,;" if ".tsv" in Path(name.lower()).suffixes[-2:] else ",;\t"


def _format_by_suffix(source: SourceConfig, name: str) -> FileFormat | None:
    name = name.lower()
    if name.endswith(source.document_suffixes):
        is_code = source.format != "text" and name.endswith(CODE_SUFFIXES)
        return "code" if is_code or source.format == "code" else "text"
    for kind, suffixes in _SUFFIXES.items():
        if source.format in ("auto", kind) and name.endswith(suffixes):
            return kind
    return None


def _absolute(source: SourceConfig) -> Path:
    # Not resolve(): a symlinked data directory keeps the name that the user gave it.
    return Path(os.path.abspath(_local_path(source)))  # noqa: PTH100


def _local_path(source: SourceConfig) -> str:
    uri, name = source.uri, source.name
    scheme, found, rest = uri.partition("://")
    if scheme == "s3" and found:
        if not _BUCKET.match(rest):
            # Not quoted: it may hold a secret.
            raise ValueError(
                f"uri of source {name!r} is no s3://bucket/key: write the bucket and the key or "
                "pattern and nothing else; credentials come from the environment"
            )
        return rest.partition("/")[2]
    if found and scheme != "file":
        raise ValueError(
            f"uri {uri!r} of source {name!r} has scheme {scheme!r}, which cannot be read yet; "
            "name a path, a file:// URI or s3://bucket/key"
        )
    if found and not rest.startswith("/"):
        raise ValueError(
            f"uri {uri!r} of source {name!r} names the host {rest.partition('/')[0]!r}; write "
            "file:/// with three slashes and an absolute path"
        )
    if not uri or "\0" in uri:
        raise ValueError(f"uri of source {name!r} is empty or has a NUL: name a file or a pattern")
    return unquote(rest) if found else uri
