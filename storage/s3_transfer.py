"""Large files to and from a bucket: in parts, several at once, each of them and the whole checked.

What was uploaded is not seen before all of it is there; an upload that does not end is aborted, and
after a kill -9 ``abort_uploads`` finds it.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infra.progress import Progress
from storage.errors import NotFoundError, StorageError
from storage.objects import ObjectInfo
from storage.s3_bucket import Bucket, Found, content_md5
from storage.s3_errors import AlteredError, TryAgainError, code_of

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""Size of a part, and of the largest file that is sent in one request."""
# S3 allows 10,000 parts.
_MAX_PARTS = 9_000
_NUM_AT_ONCE = 8
_UPLOAD = "perennial-upload"
_PART_SIZE = "perennial-part-bytes"
_SHOW_FROM_BYTES = 256 << 20


class Pace:
    """Lets so many bytes a second through, over all threads that ask; None: as many as come."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._mutex = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, num_bytes: int) -> None:
        """Return when ``num_bytes`` may go."""
        if self._rate is None:
            return
        with self._mutex:
            starts_at = max(self._free_at, time.monotonic())
            self._free_at = starts_at + num_bytes / self._rate
        time.sleep(max(0.0, starts_at - time.monotonic()))


def upload(bucket: Bucket, key: str, path: Path, bytes_per_second: float | None = None) -> None:
    """Send a file in parts, at most so fast on average; it appears whole or not at all.

    Raises:
        StorageError: As ``Bucket.run``; the parts that were sent are dropped.
        ValueError: The file changed while it was sent.
    """
    size = path.stat().st_size
    part_bytes = _part_bytes_of(size)
    pace = Pace(bytes_per_second)
    place, identity = bucket.place(key), os.urandom(8).hex()
    metadata = {_UPLOAD: identity, _PART_SIZE: str(part_bytes)}
    upload_id = bucket.run(
        f"begin the upload of {key}",
        lambda client: client.create_multipart_upload(**place, Metadata=metadata)["UploadId"],
    )
    is_complete = False
    try:

        def send(number: int) -> dict[str, Any]:
            start = number * part_bytes
            body = _read(path, start, min(part_bytes, size - start))
            pace.wait(len(body))
            return _send_part(bucket, key, upload_id, number + 1, body)

        num_parts = -(-size // part_bytes)
        with _progress("upload", key, size) as on_part:
            parts = list(_in_parallel(send, num_parts, part_bytes, on_part))
        if path.stat().st_size != size:
            raise ValueError(f"{path} changed while it was uploaded; write it once, then upload it")
        _complete(bucket, key, upload_id, parts, identity)
        is_complete = True
    finally:
        if not is_complete:
            _try_to_drop(bucket, place["Key"], upload_id)


def download(bucket: Bucket, key: str, path: Path) -> None:
    """Fetch an object in ranges; ``path`` appears whole, checked and flushed, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(8).hex()}")
    try:
        bucket.run(f"read {key}", lambda _: _download_once(bucket, key, temp))
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


def list_uploads(bucket: Bucket, prefix: str) -> Iterator[ObjectInfo]:
    """Uploads under ``prefix`` that began and did not end."""
    cut = len(bucket.full_key(prefix)) - len(prefix)
    for row in _unfinished(bucket, bucket.full_key(prefix) + "/"):
        yield ObjectInfo(row["Key"][cut:], 0, row["Initiated"].timestamp())


def abort_uploads(bucket: Bucket, prefix: str, *, older_than: float) -> int:
    """Drop uploads under ``prefix`` that began before a time (seconds since the epoch)."""
    found = list(_unfinished(bucket, bucket.full_key(prefix) + "/"))
    old = [row for row in found if row["Initiated"].timestamp() < older_than]
    for row in old:
        _drop(bucket, row["Key"], row["UploadId"])
    return len(old)


def _part_bytes_of(size: int) -> int:
    least = -(-size // _MAX_PARTS)
    # Whole MiB: offsets of parts that people can read.
    return max(PART_BYTES, -(-least // (1 << 20)) << 20)


def _send_part(
    bucket: Bucket, key: str, upload_id: str, number: int, body: bytes
) -> dict[str, Any]:
    place, md5 = bucket.place(key), content_md5(body)
    answer = bucket.run(
        f"upload part {number} of {key}",
        lambda client: client.upload_part(
            **place, UploadId=upload_id, PartNumber=number, Body=body, ContentMD5=md5
        ),
    )
    return {"PartNumber": number, "ETag": answer["ETag"]}


def _complete(
    bucket: Bucket, key: str, upload_id: str, parts: list[dict[str, Any]], identity: str
) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415  see s3_client

    place = bucket.place(key)

    def attempt(client: Any) -> None:
        try:
            client.complete_multipart_upload(
                **place, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # Answered to a repetition, too: is what stands there now this very upload?
            if code_of(error) != "NoSuchUpload" or _upload_of(bucket, client, key) != identity:
                raise

    bucket.run(f"end the upload of {key}", attempt)


def _upload_of(bucket: Bucket, client: Any, key: str) -> str | None:
    """The identity of the upload that made the object, None when there is none."""
    with contextlib.suppress(NotFoundError):
        if found := bucket.fetch(client, key, length=1):
            return found.metadata.get(_UPLOAD)
    return None


def _try_to_drop(bucket: Bucket, full_key: str, upload_id: str) -> None:
    try:
        _drop(bucket, full_key, upload_id)
    except StorageError as error:
        # The failure that brought us here matters more; gc drops the upload later.
        logger.warning(f"an unfinished upload stays until the next gc: {error}")


def _drop(bucket: Bucket, full_key: str, upload_id: str) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415  see s3_client

    def attempt(client: Any) -> None:
        try:
            client.abort_multipart_upload(Bucket=bucket.name, Key=full_key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise

    bucket.run(f"drop the upload of {full_key}", attempt)


def _unfinished(bucket: Bucket, prefix: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        page = bucket.run(
            "list unfinished uploads",
            lambda client, marker=marker: client.list_multipart_uploads(
                Bucket=bucket.name, Prefix=prefix, **marker
            ),
        )
        yield from page.get("Uploads", ())
        if not page.get("IsTruncated"):
            return
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }


def _download_once(bucket: Bucket, key: str, temp: Path) -> None:
    first = _fetch(bucket, key, 0, PART_BYTES)
    if first is None:
        temp.write_bytes(b"")
        return
    part_bytes = int(first.metadata.get(_PART_SIZE, PART_BYTES))
    num_parts = max(1, -(-first.size // part_bytes))
    with temp.open("wb", buffering=0) as file:

        def receive(number: int) -> bytes:
            start = number * part_bytes
            if number == 0 and part_bytes == PART_BYTES:
                part = first
            else:
                part = _fetch(bucket, key, start, min(part_bytes, first.size - start))
            if part is None or part.etag != first.etag:
                raise TryAgainError(f"{key} was replaced while it was read")
            _write(file.fileno(), part.body, start)
            return hashlib.md5(part.body, usedforsecurity=False).digest()

        with _progress("download", key, first.size) as on_part:
            digests = list(_in_parallel(receive, num_parts, part_bytes, on_part))
        os.fsync(file.fileno())
    _check_whole(first, digests, key)
    if temp.stat().st_size != first.size:
        raise AlteredError(f"{key} came with {temp.stat().st_size} of {first.size} bytes")


def _fetch(bucket: Bucket, key: str, start: int, length: int) -> Found | None:
    return bucket.run(
        f"read {key}", lambda client: bucket.fetch(client, key, start=start, length=length)
    )


def _check_whole(first: Found, digests: Iterable[bytes], key: str) -> None:
    """Compare with the tag of a multipart object: the MD5 of its parts' MD5 sums, and a count."""
    if not first.is_md5 or _PART_SIZE not in first.metadata:
        return
    joined = list(digests)
    whole = hashlib.md5(b"".join(joined), usedforsecurity=False).hexdigest()
    if f"{whole}-{len(joined)}" != first.etag:
        raise AlteredError(f"{key} came with the tag {whole[:12]}, the store has {first.etag[:12]}")


def _in_parallel(
    fn: Callable[[int], Any], count: int, part_bytes: int, on_part: Callable[[int], None]
) -> Iterator[Any]:
    """``fn`` of 0 to ``count - 1`` in order, several at once; after a failure no more is begun."""
    pool = ThreadPoolExecutor(min(_NUM_AT_ONCE, count), thread_name_prefix="s3")
    try:
        for number, result in enumerate(pool.map(fn, range(count))):
            on_part((number + 1) * part_bytes)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _progress(verb: str, key: str, size: int) -> Generator[Callable[[int], None]]:
    if size < _SHOW_FROM_BYTES:
        yield lambda _: None
        return
    with Progress(f"{verb} {key.rsplit('/', 1)[-1]}", size >> 20, "MiB") as progress:
        yield lambda done: progress.update(min(done, size) >> 20)


def _write(descriptor: int, body: bytes, start: int) -> None:
    """All of ``body`` at ``start``: a disk that gets full in the middle takes a part of a write."""
    left = memoryview(body)
    while left:
        written = os.pwrite(descriptor, left, start)
        start, left = start + written, left[written:]


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        body = file.read(length)
    if len(body) != length:
        raise ValueError(f"{path} changed while it was uploaded; write it once, then upload it")
    return body
