"""What the index of near-duplicates takes, by itself and over many refreshes."""

# ruff: noqa: T201  a script for people

import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from storage.file_cache import FileCache
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import content_hash, digest_file, identity_of
from storage.near_duplicate_index import SEGMENT, Slots, merge_complete, open_index
from storage.near_duplicate_segment import Segment, merge_segments, write_segment
from storage.snapshots import SnapshotManifest, mint
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tests.benchmarks.near_duplicates_text import documents
from tests.support.screening import screened

_CONFIG = NearDuplicateConfig()
_SCHEME = _CONFIG.scheme
_LAYOUT = Layout("bench")
_NUM_PARTS = 10
_LOOKUPS = 50_000


def measure_index(count: int) -> None:
    """Bytes a document and look-ups a second of one merged segment of synthetic signatures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parts: list[Segment] = []
        started_at = time.process_time()
        for part in range(_NUM_PARTS):
            keys, prints = _synthetic(count // _NUM_PARTS, part)
            rows = np.arange(len(keys), dtype=np.uint32)
            path = root / f"part{part}"
            write_segment(path, _SCHEME, f"s{part}", rows=rows, keys=keys, prints=prints)
            parts.append(Segment(np.memmap(path, np.uint8, "r").data, str(path)))
        print(f"{_NUM_PARTS} segments written in {time.process_time() - started_at:.1f} s")
        tracemalloc.start()
        started_at = time.process_time()
        merge_segments(root / "merged", parts)
        seconds = time.process_time() - started_at
        # What is mapped does not count: the system takes it back when it needs to.
        memory = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        print(f"merged in {seconds:.1f} s of processor, {memory:,.0f} MiB of its own at most")
        size = (root / "merged").stat().st_size
        print(f"{count:,} documents: {size / count:.1f} bytes a document, {size / 1e9:.2f} GB")
        merged = Segment(np.memmap(root / "merged", np.uint8, "r").data, "merged")
        _time_lookups(merged, count)


def _time_lookups(merged: Segment, count: int) -> None:
    known = np.random.default_rng(5).integers(0, count, _LOOKUPS)
    hit_keys, hit_prints = _of_documents(known, count)
    new_keys, new_prints = _synthetic(_LOOKUPS, 10**6)
    merged.has(new_keys[:10], new_prints[:10], _CONFIG.min_equal)
    for name, keys, prints, wanted in (
        ("new documents, first time", new_keys, new_prints, False),
        ("new documents, again", *_synthetic(_LOOKUPS, 10**6 + 1), False),
        ("known documents", hit_keys, hit_prints, True),
    ):
        started_at = time.process_time()
        found = merged.has(keys, prints, _CONFIG.min_equal)
        seconds = time.process_time() - started_at
        assert found.all() if wanted else not found.any()
        print(f"{name}: {len(keys) / seconds:,.0f} documents a second, {_SCHEME.bands} keys each")


def measure_refresh(count: int, num_words: int) -> None:
    """The stage of a refresh of 1% new documents after 100 of them, and of one over all."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "work").mkdir()
        store, cache = LocalObjects(root / "store"), FileCache(root / "cache")
        size = count // 100
        texts = documents(count + 3 * size, num_words=num_words, seed=3)
        index = open_index(store, _LAYOUT, (), _SCHEME, cache)
        whole = NearDuplicateScreen(_CONFIG, index, root)
        first_seconds = 0.0
        slots: Slots = ()
        for number in range(100):
            batch = [" ".join(words) for words in _taken(texts, size)]
            first_seconds += _screen(whole, batch)
            slots += (_refresh(store, slots, batch, f"part {number}", root / "work")[0],)
        started_at = time.process_time()
        whole.write(root / "whole", "whole")
        first_seconds += time.process_time() - started_at
        print(f"first refresh, {count:,} documents of {num_words} words: {first_seconds:.2f} s")
        later: list[float] = []
        for number in range(3):
            batch = [" ".join(words) for words in _taken(texts, size)]
            _, seconds = _refresh(store, slots, batch, f"later {number}", root / "work")
            later.append(seconds)
        print(
            f"refresh of {size:,} new ones into 100 parts: "
            + ", ".join(f"{1000 * seconds:.0f}" for seconds in later)
            + f" ms; {min(later) / first_seconds:.2%} to {max(later) / first_seconds:.2%} of it"
        )


def _refresh(
    store: LocalObjects, slots: Slots, batch: Sequence[str], tag: str, work: Path
) -> tuple[str, float]:
    """The snapshot that a refresh would mint, as far as the index goes, and processor seconds."""
    # A new process would map and verify everything again.
    cache = FileCache(work / "cache")
    identity = identity_of(tag)
    started_at = time.process_time()
    merge_complete(store, _LAYOUT, slots, cache=cache, work_dir=work)
    index = open_index(store, _LAYOUT, slots, _SCHEME, cache)
    screen = NearDuplicateScreen(_CONFIG, index, work)
    _screen(screen, batch)
    screen.write(work / SEGMENT, identity[:12])
    seconds = time.process_time() - started_at
    file = digest_file(work / SEGMENT, SEGMENT)
    store.put_file(f"{_LAYOUT.snapshot(identity[:12])}/{SEGMENT}", work / SEGMENT)
    mint(
        store,
        _LAYOUT,
        SnapshotManifest(
            id=identity[:12],
            lineage=_LAYOUT.lineage,
            identity=identity,
            content=content_hash([file]),
            role="new",
            minted_at="",
            tokenizer="",
            vocab_size=1,
            start_id=0,
            end_id=0,
            seq_len=1,
            token_dtype="uint16",
            domains=(),
            documents_read=len(batch),
            documents_dropped={},
            lines_rejected={},
            files=(file,),
        ),
    )
    return identity[:12], seconds


def _screen(screen: NearDuplicateScreen, batch: Sequence[str]) -> float:
    started_at = time.process_time()
    screened(screen, _CONFIG, batch)
    return time.process_time() - started_at


def _taken(texts: Iterator[list[str]], count: int) -> Iterator[list[str]]:
    for _ in range(count):
        yield next(texts)


def _synthetic(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signatures of documents that have nothing in common."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**32, (count, _SCHEME.bands), np.uint32)
    return keys, rng.integers(0, 256, (count, _SCHEME.permutations), np.uint8)


def _of_documents(known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The signatures of documents of the parts, made again."""
    size = count // _NUM_PARTS
    keys = np.empty((len(known), _SCHEME.bands), np.uint32)
    prints = np.empty((len(known), _SCHEME.permutations), np.uint8)
    for part in range(_NUM_PARTS):
        of_part = known // size == part
        part_keys, part_prints = _synthetic(size, part)
        keys[of_part] = part_keys[known[of_part] % size]
        prints[of_part] = part_prints[known[of_part] % size]
    return keys, prints
