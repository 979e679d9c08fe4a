"""Our S3 store against boto3's own transfer on the gateway of the integration tests, interleaved.

Run: ``python -m tests.benchmarks.bench_s3 [--mib 256] [--rounds 3]``; it starts its own gateway
(tests/integration/install.sh installs it), which keeps up to 4 GiB of what it is given, replaced
objects included, in memory. Ours compares a download with the MD5 that the store has, boto3 does
not: the third line of the downloads does it afterwards.
"""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.objects import open_store
from tests.integration.servers.gateway import Gateway, running_gateway

_NUM_SMALL = 200


def _seconds(fn: Callable[[], object]) -> float:
    started = time.perf_counter()
    fn()
    return time.perf_counter() - started


def _ways(gateway: Gateway, source: Path, work: Path) -> dict[str, Callable[[], object]]:
    """What is timed, ours before boto3's, so that both see the same load of the machine."""
    bucket = gateway.new_bucket()
    store, client = open_store(f"s3://{bucket}/ours"), gateway.client()
    small = b"x" * 1024

    def get_theirs() -> None:
        for _ in range(_NUM_SMALL):
            client.get_object(Bucket=bucket, Key="theirs-small")["Body"].read()

    def put_theirs() -> None:
        for _ in range(_NUM_SMALL):
            client.put_object(Bucket=bucket, Key="theirs-small", Body=small)

    def get_theirs_checked() -> None:
        client.download_file(bucket, "theirs", str(work / "theirs"))
        with (work / "theirs").open("rb") as file:
            hashlib.file_digest(file, "md5")

    return {
        "put file, ours": lambda: store.put_file("large", source),
        "put file, boto3": lambda: client.upload_file(str(source), bucket, "theirs"),
        "get file, ours": lambda: store.get_file("large", work / "ours"),
        "get file, boto3": lambda: client.download_file(bucket, "theirs", str(work / "theirs")),
        "get file, boto3, MD5": get_theirs_checked,
        "put 1 KiB, ours": lambda: [store.put("small", small) for _ in range(_NUM_SMALL)],
        "put 1 KiB, boto3": put_theirs,
        "get 1 KiB, ours": lambda: [store.get("small") for _ in range(_NUM_SMALL)],
        "get 1 KiB, boto3": get_theirs,
    }


def _write_source(path: Path, mib: int) -> None:
    block = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(1 << 15))
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(block)


def _report(name: str, seconds: list[float], mib: int) -> str:
    middle = statistics.median(seconds)
    rate = f"{mib / middle:8.0f} MiB/s" if "file" in name else f"{_NUM_SMALL / middle:8.0f} /s"
    spread = f"{min(seconds):.3f} to {max(seconds):.3f} s"
    return f"{name:>20}  {rate}  ({spread})"


def main() -> None:
    """Time each way in turn, so often as asked; print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    with running_gateway() as gateway, tempfile.TemporaryDirectory() as folder:
        os.environ.update(gateway.environment())
        source = Path(folder) / "source"
        _write_source(source, arguments.mib)
        ways: dict[str, Any] = _ways(gateway, source, Path(folder))
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                found.setdefault(name, []).append(_seconds(way))
    for name, seconds in found.items():
        sys.stdout.write(_report(name, seconds, arguments.mib) + "\n")


if __name__ == "__main__":
    main()
