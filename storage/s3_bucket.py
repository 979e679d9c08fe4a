"""One prefix of one bucket: names, single requests, and their failures told in our words."""

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from infra.credentials import hide_credentials
from storage.errors import AccessError, NotFoundError
from storage.objects import check_key
from storage.s3_client import current_client
from storage.s3_errors import AlteredError, code_of, failures, sentence_of
from storage.s3_retry import Retry

_T = TypeVar("_T")

_MD5_ETAG = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Found:
    """An object, or a range of it, as it was at one moment."""

    body: bytes
    size: int
    """Bytes of the whole object."""
    etag: str
    """Without quotes."""
    metadata: Mapping[str, str]
    is_md5: bool
    """Whether the ETag is made of MD5 sums of the content."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What every request needs to know."""

    name: str
    prefix: str
    """Keys lie under it; empty: at the top of the bucket."""
    retry: Retry = field(default_factory=Retry)

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/")

    def full_key(self, key: str) -> str:
        """The key inside the bucket. Raises ValueError for one that is no plain path."""
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def place(self, key: str) -> dict[str, str]:
        """The two arguments of every request about an object."""
        return {"Bucket": self.name, "Key": self.full_key(key)}

    def run(self, what: str, attempt: Callable[[Any], _T]) -> _T:
        """The result of ``attempt(client)``, tried again while that may help.

        Args:
            what: What is tried, for the message, e.g. "read heads/1.json".
            attempt: May raise what boto3 raises, and our own errors, which are final.

        Raises:
            StorageError: Access, room or the connection; the message says which.
        """
        try:
            return self.retry.run(attempt, self.uri)
        except failures() as error:
            raise sentence_of(error, what, self._described()) from error

    def missing(self, key: str) -> NotFoundError:
        """The error for a key without an object."""
        return NotFoundError(f"there is no object {key} in {self.uri}")

    def fetch(
        self,
        client: Any,
        key: str,
        *,
        start: int = 0,
        length: int | None = None,
        version: str | None = None,
    ) -> Found | None:
        """One attempt to read an object or a range of it, checked as far as the store tells how.

        It is what can be read under the key, or one ``version``. None means that the range begins
        behind the end. Raises NotFoundError, AccessError, TryAgainError.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415  see s3_client

        span: dict[str, str] = {}
        chosen = {} if version is None else {"VersionId": version}
        if start or length is not None:
            span["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        try:
            answer = client.get_object(**self.place(key), **span, **chosen)
        except ClientError as error:
            if code_of(error) in ("NoSuchKey", "NoSuchVersion", "404"):
                raise self.missing(key) from error
            if code_of(error) in ("InvalidRange", "416"):
                return None
            raise
        # Not "with": botocore's body would hand out urllib3's, whose errors are not translated.
        with contextlib.closing(answer["Body"]) as stream:
            body = stream.read()
        found = _checked(answer, body, key)
        return _cut(found, answer, key, start, length) if span else found

    def _described(self) -> str:
        try:
            endpoint = current_client().meta.endpoint_url
        except failures():
            # There are no credentials to make a client of, which is what the sentence is about.
            return self.uri
        return hide_credentials(f"{self.uri} at {endpoint}")


def content_md5(body: bytes | memoryview) -> str:
    """The Content-MD5 header of ``body``: the store refuses bytes that were altered on the way."""
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def etag_of(answer: dict[str, Any], key: str) -> str:
    """The entity tag that an answer about ``key`` brought, without quotes. Raises AccessError."""
    etag = (answer.get("ETag") or "").strip('"')
    if not etag:
        raise AccessError(
            f"what answered for {key} told no entity tag, so it is no S3 store; correct "
            "AWS_ENDPOINT_URL_S3"
        )
    return etag


def _checked(answer: dict[str, Any], body: bytes, key: str) -> Found:
    """What an answer brought, compared with what it promised."""
    span = _RANGE.fullmatch(answer.get("ContentRange") or "")
    size = int(span[2]) if span else len(body)
    etag, promised_bytes = etag_of(answer, key), answer.get("ContentLength", len(body))
    if len(body) != promised_bytes:
        raise AlteredError(f"{key} came with {len(body)} of {promised_bytes} bytes")
    # With a key of its own a store may give something else than an MD5 as the tag.
    encryption = answer.get("ServerSideEncryption") or ""
    is_md5 = not encryption.startswith("aws:kms") and "SSECustomerAlgorithm" not in answer
    if is_md5 and len(body) == size and _MD5_ETAG.fullmatch(etag):
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if digest != etag:
            raise AlteredError(f"{key} came with MD5 {digest[:12]}, the store has {etag[:12]}")
    return Found(body, size, etag, answer.get("Metadata") or {}, is_md5)


def _cut(
    found: Found, answer: dict[str, Any], key: str, start: int, length: int | None
) -> Found | None:
    """The range that was asked for; a server may answer with another one, or with the whole."""
    end = found.size if length is None else min(start + length, found.size)
    told = answer.get("ContentRange")
    if not told:
        return replace(found, body=found.body[start:end]) if start < found.size else None
    span = _RANGE.fullmatch(told)
    if span is None or int(span[1]) != start or len(found.body) != end - start:
        raise AlteredError(f"{key} came with {told!r}, asked for were {start} to {end}")
    return found
