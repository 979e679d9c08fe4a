"""What looking for near-duplicates adds to a whole refresh."""

# ruff: noqa: T201  a script for people

import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, TrainedTokenizer
from tasks.sources import SourceConfig
from tests.benchmarks.near_duplicates_text import documents

_FIRST_DOCUMENTS = 500


def measure_whole(count: int, num_words: int, rounds: int) -> None:
    """Processor time of a lineage's second refresh, with and without the section, in turns."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for is_on, taken in seconds.items():
                spent = _second_refresh(Path(folder) / f"{number}{is_on}", count, num_words, is_on)
                # The first round compiles.
                taken += [spent] if number else []
    without, with_it = (statistics.median(seconds[is_on]) for is_on in (False, True))
    shares = [
        (more - less) / less for less, more in zip(seconds[False], seconds[True], strict=True)
    ]
    print(
        f"refresh of {count:,} documents of {num_words} words, one process: {without:.2f} s "
        f"without, {with_it:.2f} s with, {min(shares):+.1%} to {max(shares):+.1%}"
    )


def _second_refresh(root: Path, count: int, num_words: int, is_on: bool) -> float:
    (root / "data").mkdir(parents=True)
    (root / "work").mkdir()
    source = SourceConfig(name="web", uri=str(root / "data"), domain="web", licence="CC0-1.0")
    request = RefreshRequest(
        sources=(source,),
        tokenizer=TrainedTokenizer(4096),
        seq_len=1024,
        near_duplicates=NearDuplicateConfig() if is_on else None,
    )
    texts = documents(count + _FIRST_DOCUMENTS, num_words=num_words, seed=4)
    store, spent = LocalObjects(root / "store"), 0.0
    for name, size in (("first", _FIRST_DOCUMENTS), ("second", count)):
        _write(root / "data" / f"{name}.jsonl", islice(texts, size))
        started_at = time.process_time()
        refresh(store, Layout("bench"), request, by="bench", work_dir=root / "work")
        spent = time.process_time() - started_at
    return spent


def _write(path: Path, texts: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for words in texts:
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
