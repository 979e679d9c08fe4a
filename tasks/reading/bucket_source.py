"""Sources in a bucket: what of it a URI names. Reads listings, never contents."""

import re

from storage.remote_files import list_remote
from tasks.documents import SourceObject
from tasks.sources import EVERYTHING, SourceConfig, is_claimed

_SCHEME = "s3://"
_MAGIC = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"\[!?\]?[^]]*\]|.", re.DOTALL)
_WILD = {"*": "[^/]*", "?": "[^/]"}


def is_in_bucket(uri: str) -> bool:
    """Whether a source's or a file's URI names an object of a bucket."""
    return uri.startswith(_SCHEME)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The two parts of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    return bucket, key


def list_bucket(source: SourceConfig) -> tuple[list[SourceObject], int]:
    """The objects that are meant by the source's URI, and how many more no format claims.

    Listed is what begins like the fixed part of the URI; the bucket is never listed as a whole
    unless the URI says so.
    """
    bucket, pattern = bucket_and_key(source.uri)
    fixed = _MAGIC.split(pattern, maxsplit=1)[0]
    matches = _matcher(pattern)
    is_pattern = fixed != pattern
    listed: list[SourceObject] = []
    num_skipped = 0
    for found in list_remote(bucket, fixed):
        uri = f"{_SCHEME}{bucket}/{found.key}"
        if not matches.fullmatch(found.key) or _is_hidden(source, uri):
            continue
        name = found.key.rpartition("/")[2]
        is_named = found.key == pattern
        if is_claimed(source, name, is_named=is_named, by_pattern=is_pattern or is_named):
            listed.append(SourceObject(uri=uri, size=found.size, etag=found.etag))
        else:
            num_skipped += 1
    return listed, num_skipped


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
