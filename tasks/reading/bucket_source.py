"""Sources in a bucket: what of it a URI names. Reads listings, and of contents licence files."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePath, PurePosixPath

from storage.errors import ConflictError, NotFoundError
from storage.remote_files import RemoteObject, list_remote, open_remote
from tasks.documents import SourceObject
from tasks.reading.licence_files import READ_BYTES, LicenceFiles, is_licence, joined, licence_of
from tasks.sources import EVERYTHING, SourceConfig, format_of, is_claimed

_SCHEME = "s3://"
_MAGIC = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"\[!?\]?[^]]*\]|.", re.DOTALL)
_READ_AT_ONCE = 16
_WILD = {"*": "[^/]*", "?": "[^/]"}


def is_in_bucket(uri: str) -> bool:
    """Whether a source's or a file's URI names an object of a bucket."""
    return uri.startswith(_SCHEME)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The two parts of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    return bucket, key


def list_bucket(source: SourceConfig) -> tuple[list[SourceObject], list[str]]:
    """The objects that are meant by the source's URI, and the names of those no format claims.

    Listed is what begins like the fixed part of the URI; the bucket is never listed as a whole
    unless the URI says so. In a tree of text, code or HTML the licence files below it are read.
    """
    bucket, pattern = bucket_and_key(source.uri)
    fixed = _MAGIC.split(pattern, maxsplit=1)[0]
    matches = _matcher(pattern)
    is_pattern = fixed != pattern
    listed: list[RemoteObject] = []
    licence_files: list[RemoteObject] = []
    skipped: list[str] = []
    for found in list_remote(bucket, fixed):
        uri = f"{_SCHEME}{bucket}/{found.key}"
        name = found.key.rpartition("/")[2]
        if is_licence(name):
            licence_files.append(found)
        if not matches.fullmatch(found.key) or _is_hidden(source, uri):
            continue
        is_named = found.key == pattern
        if is_claimed(source, name, is_named=is_named, by_pattern=is_pattern or is_named):
            listed.append(found)
        else:
            skipped.append(name)
    is_document = [format_of(source, found.key) in ("html", "text", "code") for found in listed]
    licences = _licences(bucket, fixed, licence_files if any(is_document) else [])
    objects = [
        SourceObject(
            uri=f"{_SCHEME}{bucket}/{found.key}",
            size=found.size,
            etag=found.etag,
            licence=licences.nearest(PurePosixPath(found.key).parent) if is_text else "",
        )
        for found, is_text in zip(listed, is_document, strict=True)
    ]
    return objects, skipped


def _licences(bucket: str, fixed: str, files: Sequence[RemoteObject]) -> LicenceFiles:
    """The licences of the directories below the fixed part of a URI; reads all of ``files``."""
    of_folder: dict[PurePath, list[str]] = {}
    with ThreadPoolExecutor(_READ_AT_ONCE, "licences") as pool:
        for found, licence in zip(files, pool.map(partial(_licence, bucket), files), strict=True):
            of_folder.setdefault(PurePosixPath(found.key).parent, []).append(licence)

    def licence_in(folder: PurePath) -> str | None:
        return joined(of_folder[folder]) if folder in of_folder else None

    return LicenceFiles(PurePosixPath(fixed.rpartition("/")[0]), licence_in)


def _licence(bucket: str, found: RemoteObject) -> str:
    """Of one file; "" where its wording is not known, or it is gone meanwhile."""
    size = min(found.size, READ_BYTES)
    try:
        with open_remote(bucket, found.key, size=size, etag=found.etag) as file:
            return licence_of(file.read().decode(errors="replace"))
    except (NotFoundError, ConflictError):
        return ""


def name_in_bucket(source: SourceConfig, uri: str) -> str:
    """The name of a listed object below the fixed part of the source's URI."""
    if uri == source.uri:
        return uri.rpartition("/")[2]
    fixed = source.uri.rstrip("/") + "/"
    if magic := _MAGIC.search(source.uri):
        fixed = source.uri[: magic.start()].rpartition("/")[0] + "/"
    return uri.removeprefix(fixed)


def _is_hidden(source: SourceConfig, uri: str) -> bool:
    return "/." not in source.uri and "/." in f"/{name_in_bucket(source, uri)}"


def _matcher(pattern: str) -> re.Pattern[str]:
    """For whole keys: as of a local pattern, ``*`` stays inside a part of the key."""
    if not _MAGIC.search(pattern):
        # Itself, or everything below it; an empty one is the whole bucket.
        below = re.escape(pattern.rstrip("/") + "/") if pattern else ""
        return re.compile(f"{re.escape(pattern)}|{below}.+", re.DOTALL)
    parts = f"{pattern}/*".split("/") if pattern.endswith("**") else pattern.split("/")
    if pattern.endswith("/"):
        parts[-1:] = EVERYTHING.split("/")
    regexes = ["(?:[^/]+/)*" if part == "**" else _part(part) + "/" for part in parts[:-1]]
    return re.compile("".join(regexes) + _part(parts[-1]), re.DOTALL)


def _part(part: str) -> str:
    """Regular expression of one part of a pattern, as the shell means it."""
    found: list[str] = []
    for token in _TOKEN.findall(part):
        if token in _WILD:
            found.append(_WILD[token])
        elif len(token) > 1:
            letters = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            is_not = letters.startswith("!")
            letters = re.sub(r"^([]^])", r"\\\1", letters[is_not:])
            found.append(f"[{'^/' if is_not else ''}{letters}]")
        else:
            found.append(re.escape(token))
    return "".join(found)
