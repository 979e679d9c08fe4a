"""A refresh of far more text than the memory that it may have.

    mkdir /sys/fs/cgroup/memory/refresh
    echo 600000000 > /sys/fs/cgroup/memory/refresh/memory.limit_in_bytes
    (echo $BASHPID > /sys/fs/cgroup/memory/refresh/cgroup.procs
     OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_refresh_memory 6000 FOLDER [near])

Makes the text (of random words, 500 a document) in FOLDER if it is not there, then reads,
normalises, deduplicates (with ``near`` also nearly), encodes, packs and mints it, and tells the
largest private memory meanwhile. That of the files that it maps the system takes back when it
needs it.
"""
# ruff: noqa: T201  a script that prints its figures

import json
import random
import sys
import time
from pathlib import Path

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.refresh import refresh
from tasks.refresh_progress import ReadingProgress, UnseenProgress
from tasks.refresh_request import ImportedTokenizer, RefreshRequest
from tasks.sources import SourceConfig
from training.tokenizer_training import train_tokenizer

_FILE_BYTES = 50_000_000
_WORDS = 500
_TOLD_EVERY = 100
_VOCABULARY = 8192


class Watched(UnseenProgress):
    """Remembers the largest private memory."""

    def __init__(self) -> None:
        self.peak_mb = private_mb()
        self._batches = 0

    def reading(self, state: ReadingProgress) -> None:
        """Look at the memory."""
        self._batches += 1
        self.peak_mb = max(self.peak_mb, private_mb())
        if self._batches % _TOLD_EVERY == 0:
            print(f"{state.documents:,} documents, {private_mb():.0f} MB", flush=True)

    def stage(self, what: str, done: int, total: int) -> None:  # noqa: ARG002  as it is called
        """Look at the memory."""
        self.peak_mb = max(self.peak_mb, private_mb())


def private_mb() -> float:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def make_text(folder: Path, megabytes: int) -> None:
    """Files of random words, and a tokenizer trained on a few of them."""
    folder.mkdir(parents=True)
    rng = random.Random(1)
    words = [f"{rng.randrange(36**4):x}" for _ in range(50_000)]
    texts = [" ".join(rng.choices(words, k=_WORDS)) for _ in range(2000)]
    train_tokenizer(texts, folder.parent / "tokenizer", vocab_size=_VOCABULARY)
    for number in range(-(-megabytes * 10**6 // _FILE_BYTES)):
        left = min(_FILE_BYTES, megabytes * 10**6 - number * _FILE_BYTES)
        with (folder / f"{number:05}.jsonl").open("w", encoding="utf-8") as out:
            while left > 0:
                line = json.dumps({"text": " ".join(rng.choices(words, k=_WORDS))}) + "\n"
                left -= out.write(line)


def main(megabytes: int, home: Path, near: NearDuplicateConfig | None) -> None:
    """Make the text if it is not there, refresh, and tell."""
    text = home / "text"
    if not text.exists():
        make_text(text, megabytes)
    (home / "work").mkdir(exist_ok=True)
    request = RefreshRequest(
        sources=(SourceConfig(name="web", uri=str(text), domain="web"),),
        tokenizer=ImportedTokenizer(home / "tokenizer"),
        seq_len=1024,
        near_duplicates=near,
    )
    watched, began = Watched(), time.monotonic()
    done = refresh(
        LocalObjects(home / f"store-{time.time_ns()}"),
        Layout("bench"),
        request,
        by="bench",
        work_dir=home / "work",
        progress=watched,
    )
    seconds = time.monotonic() - began
    print(f"{done.reason}\n{megabytes:,} MB in {seconds:.0f} s, peak {watched.peak_mb:.0f} MB")


if __name__ == "__main__":
    is_near = sys.argv[3:] == ["near"]
    main(int(sys.argv[1]), Path(sys.argv[2]), NearDuplicateConfig() if is_near else None)
