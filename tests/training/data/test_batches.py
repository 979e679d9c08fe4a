"""Batches: cut by rank and micro batch, read ahead by one step, closed without a trace."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.errors import CorruptError
from storage.file_cache import FileCache
from storage.local_objects import LocalObjects
from storage.objects import ObjectInfo, open_store
from tests.training.tiny_run import SEQ_LEN, put_train_shards, random_rows, tiny_plan
from training.config import Mixture, Stream
from training.data.batches import Batches
from training.data.order import Order
from training.data.shards import MdsReader, TrainShards
from training.streams import open_streams


class Remote(LocalObjects):
    """A store without local files, like S3, that says what was downloaded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.downloads: list[str] = []

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  the protocol's
        return None

    def get_file(self, key: str, path: Path) -> None:
        self.downloads.append(key)
        super().get_file(key, path)


def batches_of(
    store: LocalObjects, rows: list[np.ndarray], cache: FileCache, batch: int
) -> Batches:
    """One stream for each of ``rows``, seven rows a shard."""
    streams: list[Stream] = []
    shards: list[TrainShards] = []
    for number, tokens in enumerate(rows):
        files = put_train_shards(store, f"s{number}", "web/train", tokens, rows_per_shard=7)
        reader = MdsReader(store, f"s{number}", "web/train", files, cache)
        shards.append(TrainShards(reader, seq_len=SEQ_LEN))
        streams.append(
            Stream(
                snapshot=f"s{number}",
                domain="web",
                prefix=f"s{number}",
                parts=number + 1,
                samples=len(tokens),
                available=len(tokens),
                is_replay=False,
            )
        )
    order = Order(Mixture(streams=tuple(streams), seed=2), batch)
    return Batches(order, shards, micro_batch_size=batch)


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    plan, uri = tiny_plan(tmp_path)
    shards = open_streams(open_store(uri), plan, tmp_path / "cache")
    return Batches(Order(plan.mixture, 8), shards, micro_batch_size=3)


def test_the_last_micro_batch_may_be_shorter(batches: Batches) -> None:
    batch = batches.read(0)
    assert [tuple(tokens.shape) for tokens in batch.tokens] == [(3, 17), (3, 17), (2, 17)]
    assert [len(streams) for streams in batch.streams] == [3, 3, 2]
    assert batch.tokens[0].dtype == torch.int64
    assert torch.cat(batch.streams).tolist() == [stream for stream, _ in batch.samples]


def test_read_ahead_gives_the_same_batches_in_order(batches: Batches) -> None:
    ahead = list(batches.iterate(3, 7))
    assert [batch.step for batch in ahead] == [3, 4, 5, 6]
    for batch in ahead:
        plain = batches.read(batch.step)
        assert batch.samples == plain.samples
        assert batch.checksum == plain.checksum
        assert torch.equal(torch.cat(batch.tokens), torch.cat(plain.tokens))
        assert batch.wait_seconds >= 0
    assert list(batches.iterate(7, 7)) == []


def test_closing_early_ends_the_thread(batches: Batches) -> None:
    coming = batches.iterate(0, 100)
    next(coming)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    coming.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_workers_that_cannot_share_a_batch_are_refused(batches: Batches, tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    with pytest.raises(ValueError, match="3 workers cannot share the 8 samples"):
        Batches(Order(plan.mixture, 8), [], micro_batch_size=3, world_size=3)


def test_a_batch_holds_the_rows_that_the_order_names(tmp_path: Path) -> None:
    rows = [random_rows(0, 60), random_rows(1, 40).astype(np.uint32)]
    batches = batches_of(LocalObjects(tmp_path), rows, FileCache(tmp_path / "cache"), 16)
    for step in range(9):
        batch = batches.read(step)
        wanted = np.stack([rows[stream][row] for stream, row in batch.samples])
        assert np.array_equal(torch.cat(batch.tokens).numpy(), wanted)


def test_the_checksum_counts_every_token_at_its_place(
    tmp_path: Path,
) -> None:
    rows = random_rows(0, 8)
    variants = [rows]
    for place in range(SEQ_LEN + 1):
        changed, swapped = rows.copy(), rows.copy()
        changed[5, place] += 1
        swapped[:, [place, place - 1]] = rows[:, [place - 1, place]]
        variants += [changed, swapped]
    checksums = [
        batches_of(LocalObjects(tmp_path / str(name)), [tokens], FileCache(tmp_path / "c"), 8)
        .read(0)
        .checksum
        for name, tokens in enumerate(variants)
    ]
    assert len(set(checksums)) == len(variants)
    assert all(0 < checksum < 8 * 2**32 for checksum in checksums)


def test_read_ahead_in_small_and_large_hand_overs_is_the_same(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [batches.read(step).samples for step in range(3, 40)]
    for tokens in (1, 2**10, 2**30):
        monkeypatch.setattr("training.data.batches._HAND_OVER_TOKENS", tokens)
        assert [batch.samples for batch in batches.iterate(3, 40)] == wanted
    monkeypatch.setattr("training.data.batches._MAX_TOKENS_AHEAD", 1)
    assert [batch.samples for batch in batches.iterate(3, 40)] == wanted


def test_only_the_shards_of_a_batch_are_fetched_and_each_once(tmp_path: Path) -> None:
    store = Remote(tmp_path / "store")
    batches = batches_of(store, [random_rows(0, 300)], FileCache(tmp_path / "cache"), 16)
    batch = batches.read(5)
    needed = {f"s0/web/train/shard.{row // 7:05d}.mds" for _, row in batch.samples}
    assert sorted(store.downloads) == sorted(needed)
    batches.read(5)
    assert len(store.downloads) == len(needed) < 300 // 7


def test_a_bit_that_flips_in_the_cache_between_two_lives_changes_no_batch(tmp_path: Path) -> None:
    store, rows = Remote(tmp_path / "store"), [random_rows(0, 60)]
    before = batches_of(store, rows, FileCache(tmp_path / "cache"), 16).read(2)
    cached = [path for path in (tmp_path / "cache").glob("[0-9a-f]?/*") if path.is_file()]
    assert cached
    for path in cached:
        body = bytearray(path.read_bytes())
        body[-1] ^= 64
        path.write_bytes(body)
    after = batches_of(store, rows, FileCache(tmp_path / "cache"), 16).read(2)
    assert after.samples == before.samples
    assert torch.equal(after.tokens[0], before.tokens[0])
    assert len(store.downloads) == 2 * len(cached)


def test_shards_that_were_closed_for_others_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [random_rows(0, 60), random_rows(1, 60)]
    store = LocalObjects(tmp_path / "store")
    plenty = batches_of(store, rows, FileCache(tmp_path / "cache"), 16)
    monkeypatch.setattr("resource.getrlimit", lambda _: (12, 12))
    cache = FileCache(tmp_path / "cache")
    scarce = batches_of(store, rows, cache, 16)
    for step in range(20):
        assert torch.equal(scarce.read(step).tokens[0], plenty.read(step).tokens[0])
    assert cache.num_closed > 100


def test_an_altered_shard_ends_the_reading_with_its_name_and_samples(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    batches = batches_of(store, [random_rows(0, 60)], FileCache(tmp_path / "cache"), 6)
    key = "s0/web/train/shard.00003.mds"
    body = bytearray(store.get(key))
    body[-1] ^= 1
    store.put(key, bytes(body))
    with pytest.raises(
        CorruptError, match=r"00003\.mds was altered: .*it holds samples 21 to 27 of web/train"
    ):
        list(batches.iterate(0, 10))
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_the_first_batch_of_a_hand_over_says_how_long_it_was_waited_for(batches: Batches) -> None:
    first, *others = batches.iterate(0, 5)
    assert first.wait_seconds > 0
    assert [batch.wait_seconds for batch in others] == [0.0] * 4
    assert replace(first, wait_seconds=0.0).samples == batches.read(0).samples


def test_a_start_lists_no_objects_and_fetches_no_shard(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)

    class Unlisted(Remote):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise AssertionError(f"a start must not grow with the objects below {prefix}")

    store = Unlisted(Path(uri.removeprefix("file://")))
    shards = open_streams(store, plan, tmp_path / "cache")
    assert [len(stream) for stream in shards] == [
        stream.available for stream in plan.mixture.streams
    ]
    assert store.downloads == []


def test_the_checksum_of_a_step_does_not_depend_on_who_reads_which_stream(tmp_path: Path) -> None:
    rows = [random_rows(0, 60), random_rows(1, 40).astype(np.uint32)]
    whole = batches_of(LocalObjects(tmp_path), rows, FileCache(tmp_path / "cache"), 16)
    for world_size in (2, 16):
        parts = [
            Batches(whole.order, whole.shards, micro_batch_size=3, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for step in range(4):
            assert sum(part.read(step).checksum for part in parts) == whole.read(step).checksum
