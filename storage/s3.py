"""A bucket of S3, or of a server that speaks it, as an object store.

Needed of the server: conditional PutObject (``If-None-Match: *``, ``If-Match``), ranges, multipart
uploads, Content-MD5. ``storage.objects.probe`` finds one that ignores the conditions.
"""

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage import s3_transfer, s3_versions
from storage.errors import AlreadyExistsError, ConflictError, NotFoundError, UnavailableError
from storage.objects import ObjectInfo, ObjectVersion, check_key, check_range
from storage.s3_bucket import Bucket, content_md5, etag_of
from storage.s3_errors import TryAgainError, code_of
from storage.s3_retry import Retry

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_WRITES = "perennial-writes"
"""Metadata of an object: the identities of its last conditional writes, the newest first."""
# S3 allows 2 KB of metadata; an identity takes 9 bytes.
_NUM_WRITES_KEPT = 200
_REFUSED = ("PreconditionFailed", "412")


def open_bucket(uri: str, retry: Retry | None = None) -> "S3Objects":
    """The store at ``s3://bucket`` or ``s3://bucket/prefix``; sends nothing.

    Raises:
        ValueError: Another form, or one that carries credentials.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or "@" in uri or ":" in bucket:
        # Not quoted: it may hold a secret.
        raise ValueError(
            "cannot open this store: expected s3://bucket/prefix and nothing else; credentials and "
            "endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_ENDPOINT_URL_S3), a profile or the machine's role"
        )
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket) or "?" in uri or "#" in uri:
        raise ValueError(f"cannot open the store {uri!r}: expected s3://bucket/prefix")
    if prefix:
        check_key(prefix)
    return S3Objects(Bucket(bucket, prefix, retry or Retry()))


class S3Objects:
    """The verbs of ``ObjectStore`` on a bucket; cheap to make, safe for threads and forks.

    Every verb is tried again inside a budget while its failure may pass (``Retry``), then ends in
    UnavailableError. A write whose answer was lost is recognised: ``put_if_absent`` by its bytes,
    ``put_if_match`` by an identity that it leaves in the object's metadata.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return open_bucket, (self.uri, self._bucket.retry)

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return self._bucket.uri

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes or a range of them, short at its end. Raises NotFoundError."""
        check_range(key, start, length)
        check_key(key)
        # A range of no bytes cannot be asked for; one byte tells whether the object is there.
        asked = 1 if length == 0 else length
        found = self._bucket.run(
            f"read {key}",
            lambda client: self._bucket.fetch(client, key, start=start, length=asked),
        )
        return b"" if found is None else found.body[:length]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The bytes and a tag for ``put_if_match``. Raises NotFoundError."""
        check_key(key)
        found = self._bucket.run(f"read {key}", lambda client: self._bucket.fetch(client, key))
        assert found is not None, "only a range can lie behind the end"
        return found.body, str(_Tag(found.etag, _writes_in(found.metadata)))

    def put(self, key: str, body: bytes) -> None:
        """Write whole or not at all, durable on return; replaces an object of that key."""
        place, md5 = self._bucket.place(key), content_md5(body)
        self._bucket.run(
            f"write {key}",
            lambda client: client.put_object(**place, Body=body, ContentMD5=md5),
        )

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Create, durable on return; AlreadyExistsError when the key holds other bytes."""
        from botocore.exceptions import ClientError  # noqa: PLC0415  see s3_client

        place, md5 = self._bucket.place(key), content_md5(body)

        def attempt(client: Any) -> None:
            try:
                client.put_object(**place, Body=body, ContentMD5=md5, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in _REFUSED:
                    raise
                self._check_own(client, key, body)

        self._bucket.run(f"create {key}", attempt)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        """Replace if the entity tag is still ``etag``; returns the new tag.

        The store compares content: bytes that come back to an earlier value make an old tag good
        again, so what is counted or leased must carry something that only grows.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415  see s3_client

        place, md5 = self._bucket.place(key), content_md5(body)
        old = _Tag.parse(etag)
        write = base64.urlsafe_b64encode(os.urandom(6)).decode()
        writes = (write, *old.writes)[:_NUM_WRITES_KEPT]
        num_attempts = 0

        def attempt(client: Any) -> str:
            nonlocal num_attempts
            num_attempts += 1
            try:
                answer = client.put_object(
                    **place,
                    Body=body,
                    ContentMD5=md5,
                    # HTTP wants quotes around it. Ceph's gateway (16) takes them for a part of the
                    # tag and refuses it; Amazon takes both; ``probe`` finds who takes neither.
                    IfMatch=old.etag,
                    Metadata={_WRITES: " ".join(writes)},
                )
            except ClientError as error:
                if code_of(error) not in (*_REFUSED, "NoSuchKey", "404"):
                    raise
                new = _Tag("", writes)
                return self._settle(client, key, new, old, is_lost=num_attempts > 1)
            return str(_Tag(etag_of(answer, key), writes))

        return self._bucket.run(f"replace {key}", attempt)

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        bytes_per_second: float | None = None,
        may_link: bool = False,  # noqa: ARG002  there is nothing to link
    ) -> None:
        """Upload a local file, whole or not at all, durable on return; large ones in parts."""
        if path.stat().st_size > s3_transfer.PART_BYTES:
            s3_transfer.upload(self._bucket, key, path, bytes_per_second)
        else:
            self.put(key, path.read_bytes())

    def get_file(self, key: str, path: Path) -> None:
        """Download to ``path``, which appears whole or not at all. Raises NotFoundError."""
        check_key(key)
        s3_transfer.download(self._bucket, key, path)

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        try:
            # Not HeadObject: its errors have no body to tell a missing bucket from a missing key.
            self.get(key, length=1)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with ``prefix + "/"``, in order of their keys."""
        return self._list(self._bucket.full_key(prefix) + "/", f"list {prefix}")

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        place = self._bucket.place(key)
        self._bucket.run(f"remove {key}", lambda client: client.delete_object(**place))

    def list_versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """As ``list``, with what objects were; of a bucket that keeps no versions each once."""
        return s3_versions.list_versions(self._bucket, self._bucket.full_key(prefix) + "/")

    def get_version(
        self, key: str, version: str, *, start: int = 0, length: int | None = None
    ) -> bytes:
        """The bytes of one version, or a range of them. Raises NotFoundError."""
        check_range(key, start, length)
        asked = 1 if length == 0 else length
        found = self._bucket.run(
            f"read version {version} of {key}",
            lambda client: self._bucket.fetch(
                client, key, start=start, length=asked, version=version
            ),
        )
        return b"" if found is None else found.body[:length]

    def purge(self, key: str, *, keep_newest: bool = False) -> int:
        """Remove the versions of an object for good, delete markers too; returns how many."""
        return s3_versions.purge(self._bucket, key, keep_newest=keep_newest)

    def local_path(self, key: str) -> Path | None:
        """None: every object has to be fetched."""
        check_key(key)
        return None

    def list_uploads(self, prefix: str) -> Iterator[ObjectInfo]:
        """Uploads under ``prefix`` that began and did not end."""
        return s3_transfer.list_uploads(self._bucket, prefix)

    def abort_uploads(self, prefix: str, *, older_than: float) -> int:
        """Drop uploads under ``prefix`` that began before a time and never ended; how many."""
        return s3_transfer.abort_uploads(self._bucket, prefix, older_than=older_than)

    def _check_own(self, client: Any, key: str, body: bytes) -> None:
        """The key was taken: by our own write, whose answer was lost, or by others' bytes."""
        try:
            found = self._bucket.fetch(client, key)
        except NotFoundError as error:
            raise TryAgainError(f"{key} was removed while we created it") from error
        if found is None or found.body != body:
            raise AlreadyExistsError(f"{key} already exists in {self.uri} with other content")

    def _settle(self, client: Any, key: str, new: "_Tag", old: "_Tag", *, is_lost: bool) -> str:
        """The condition failed: because of our own write, whose answer was lost, or another's?

        ``is_lost``: an earlier attempt may have arrived, though it did not end well.
        """
        found = self._bucket.fetch(client, key)
        current = _Tag(found.etag, _writes_in(found.metadata)) if found else _Tag("", ())
        if new.writes[0] in current.writes:
            # Ours; when others came after it, the tag that we return is stale, as it should be.
            is_newest = new.writes[0] == current.writes[0]
            return str(current if is_newest else _Tag("replaced", new.writes))
        if is_lost and not current.follows(old):
            raise UnavailableError(
                f"cannot tell whether {key} in {self.uri} was written: the answer was lost and "
                f"{_NUM_WRITES_KEPT} other writes followed; read it again and decide again"
            )
        raise ConflictError(
            f"{key} in {self.uri} changed since it was read: expected the entity tag "
            f"{old.etag[:12]}, found {current.etag[:12]}; read it again and decide again"
        )

    def _list(self, prefix: str, what: str) -> Iterator[ObjectInfo]:
        cut = len(self._bucket.prefix) + 1 if self._bucket.prefix else 0
        page: dict[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            more = {"ContinuationToken": token} if token else {}
            page = self._bucket.run(
                what,
                lambda client, more=more: client.list_objects_v2(
                    Bucket=self._bucket.name, Prefix=prefix, **more
                ),
            )
            for row in page.get("Contents", ()):
                # Consoles mark folders with empty objects that no key of ours can name.
                if not row["Key"].endswith("/"):
                    key, modified_at = row["Key"][cut:], row["LastModified"].timestamp()
                    yield ObjectInfo(key, row["Size"], modified_at)


@dataclass(frozen=True, slots=True)
class _Tag:
    """An entity tag and the conditional writes that led to it, as one text."""

    etag: str
    writes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "_Tag":
        etag, *writes = text.split(" ")
        return cls(etag, tuple(writes))

    def __str__(self) -> str:
        return " ".join((self.etag, *self.writes))

    def follows(self, old: "_Tag") -> bool:
        """Whether ``writes`` names every conditional write that came after ``old``."""
        if len(self.writes) < _NUM_WRITES_KEPT:
            return True
        return bool(old.writes) and old.writes[0] in self.writes


def _writes_in(metadata: Any) -> tuple[str, ...]:
    return tuple(metadata.get(_WRITES, "").split())
