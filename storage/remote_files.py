"""Objects of any bucket as files to be read: listed with their entity tags, read in ranges.

Unlike a store (``storage.objects``) the bucket is somebody else's: nothing is written, and keys are
taken as they are. Credentials and endpoint come from boto3's own chain.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from storage.errors import ConflictError
from storage.objects import check_key
from storage.s3_bucket import Bucket

_RANGE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One row of a listing."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Without quotes; changes when the content does."""


def list_remote(bucket: str, prefix: str) -> Iterator[RemoteObject]:
    """Objects whose key begins with ``prefix``, in order of their keys; a page at a time.

    Left out are folder marks, and keys that are no plain paths. Raises AccessError and
    UnavailableError. Safe to retry.
    """
    place = Bucket(bucket, "")
    page: dict[str, Any] = {"NextContinuationToken": None}
    while "NextContinuationToken" in page:
        token = page["NextContinuationToken"]
        more = {"ContinuationToken": token} if token else {}
        page = place.run(
            f"list {prefix}",
            lambda client, more=more: client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more),
        )
        for row in page.get("Contents", ()):
            if _is_plain(row["Key"]):
                yield RemoteObject(row["Key"], row["Size"], row["ETag"].strip('"'))


def open_remote(bucket: str, key: str, *, size: int, etag: str) -> IO[bytes]:
    """The object as it was listed, as a file that can be read and sought; holds 4 MiB of it.

    Reading raises ConflictError once the object is another one, NotFoundError when it is gone,
    AccessError and UnavailableError.
    """
    return io.BufferedReader(_RemoteBytes(Bucket(bucket, ""), key, size, etag), _RANGE_BYTES)


class _RemoteBytes(io.RawIOBase):
    """Ranges of an object, each checked to be of the version that was listed."""

    def __init__(self, bucket: Bucket, key: str, size: int, etag: str) -> None:
        self._bucket, self._key, self._size, self._etag = bucket, key, size, etag
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"cannot seek to {base + offset} of {self._key}")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        length = min(len(buffer), self._size - self._place)
        if length <= 0:
            return 0
        found = self._bucket.run(
            f"read {self._key}",
            lambda client: self._bucket.fetch(client, self._key, start=self._place, length=length),
        )
        if found is None or found.etag != self._etag or not found.body:
            raise ConflictError(
                f"{self._key} in {self._bucket.uri} changed since it was listed: expected the "
                f"entity tag {self._etag}, found {found.etag if found else 'an end before'}"
            )
        buffer[: len(found.body)] = found.body
        self._place += len(found.body)
        return len(found.body)


def _is_plain(key: str) -> bool:
    try:
        check_key(key)
    except ValueError:
        return False
    return True
