"""A run that is killed again and again ends with the same bits as one that is not."""

import json
import os
import signal
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.objects import ObjectStore, open_store
from tests.support.killing_store import KillingObjects, run_killed
from tests.support.waiting import wait_for
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, MODEL, tensors_of, tiny_plan
from training.checkpoint.index import committed_steps, latest, read_manifest, step_prefix
from training.config import ScheduleConfig, TrainPlan
from training.data.batches import Batches, RankBatch
from training.data.order import Order
from training.decoder.model import Decoder
from training.errors import PlanMismatchError
from training.hub.directory import write_model
from training.launch import run_training
from training.loop import lr_at
from training.loss import StreamLoss
from training.metrics import CHECKSUM, LOSS, LR, MEASURED, STEP, read_metrics
from training.optim import moments_of
from training.schedule import resolve
from training.streams import open_streams
from training.worker import run_worker


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run_here(plan: TrainPlan, uri: str, work_dir: Path) -> str:
    return run_training(plan, store_uri=uri, num_workers=0, work_dir=work_dir, threads_per_worker=1)


def life(
    plan: TrainPlan,
    uri: str,
    work_dir: Path,
    *,
    step: int | None = None,
    operation: int | None = None,
    committed: int = 0,
) -> bool:
    """One life of the run, killed in the middle of a step or of a store operation.

    In the middle of a step it is killed when the checkpoint of step ``committed`` is in the store.
    """

    def lr_or_death(tokens_seen: int, schedule: object) -> float:
        if tokens_seen == (step or 0) * plan.global_batch_tokens:
            if committed:
                wait_for(lambda: committed in committed_here(), 60, f"step {committed}")
            os.kill(os.getpid(), signal.SIGKILL)
        return lr_at(tokens_seen, plan.schedule)

    def committed_here() -> list[int]:
        return committed_steps(open_store(uri), plan.checkpoint_prefix)

    def killing_store(uri: str) -> ObjectStore:
        return KillingObjects(open_store(uri), kill_before=operation)

    def body() -> None:
        with (
            mock.patch("training.loop.lr_at", lr_or_death),
            mock.patch("training.worker.open_store", killing_store),
        ):
            run_here(plan, uri, work_dir)

    ended = run_killed(body)
    assert ended.killed or ended.code == 0, ended.error
    return ended.killed


def without_clock(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key not in MEASURED} for row in rows]


def test_kills_in_steps_and_uploads_change_no_bit(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "undisturbed")
    final = run_here(plan, uri, tmp_path / "work")
    whole = open_store(uri)

    plan, uri = tiny_plan(tmp_path / "killed")
    kills = 0
    for step in (2, 5, 6, 11):
        kills += life(plan, uri, tmp_path / "work-killed", step=step)
    assert kills == 4
    # Each life dies at a later operation than the one before, so that some die within an upload.
    plan, uri = tiny_plan(tmp_path / "killed", update="u2")
    for operation in range(1, 200, 4):
        if not life(plan, uri, tmp_path / "work-killed", operation=operation):
            break
        kills += 1
    assert kills > 10
    store = open_store(uri)
    for update in ("u1", "u2"):
        plan, uri = tiny_plan(tmp_path / "killed", update=update)
        again = run_here(plan, uri, tmp_path / "work-killed")
        assert tensors_of(store, again) == tensors_of(whole, final)
        rows = read_metrics(store, LAYOUT.metrics(update))
        assert [row[STEP] for row in rows] == list(range(1, 13))
        assert without_clock(rows) == without_clock(read_metrics(whole, LAYOUT.metrics("u1")))


def test_a_bf16_run_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    finals: list[tuple[str, str]] = []
    for name, deaths in (("whole", ()), ("killed", (2, 5, 11))):
        plan, uri = tiny_plan(tmp_path / name)
        plan = replace(plan, precision="bf16")
        for step in deaths:
            assert life(plan, uri, tmp_path / f"work-{name}", step=step)
        final = run_here(plan, uri, tmp_path / f"work-{name}")
        finals.append(tensors_of(open_store(uri), final))
    assert finals[0] == finals[1]
    fp32, uri = tiny_plan(tmp_path / "fp32")
    final = run_here(fp32, uri, tmp_path / "work-fp32")
    assert tensors_of(open_store(uri), final) != finals[0]


def test_every_worker_count_takes_the_same_samples_in_every_step(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    run_here(plan, uri, tmp_path / "work")
    rows = read_metrics(open_store(uri), LAYOUT.metrics("u1"))
    shards = open_streams(open_store(uri), plan, tmp_path / "cache")
    order = Order(plan.mixture, 8)
    for world_size in (1, 2, 4):
        readers = [
            Batches(order, shards, micro_batch_size=3, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for row in rows:
            parts: list[RankBatch] = [reader.read(row[STEP] - 1) for reader in readers]
            assert sum(part.checksum for part in parts) == row[CHECKSUM]
            read = [sample for part in parts for sample in part.samples]
            streams, samples = order.step(row[STEP] - 1)
            assert read == list(zip(streams.tolist(), samples.tolist(), strict=True))
            assert [len(part.samples) for part in parts] == [8 // world_size] * world_size


def losses(root: Path, *, world_size: int = 1, **changes: Any) -> np.ndarray:
    """Nats per token of fifty steps."""
    plan, uri = tiny_plan(root, num_steps=50)
    plan = replace(plan, **changes)
    if world_size == 1:
        run_here(plan, uri, root / "work")
    else:
        run_ranks(plan, uri, root / "work", world_size=world_size)
    return np.array([row[LOSS] for row in read_metrics(open_store(uri), LAYOUT.metrics("u1"))])


def test_another_number_of_workers_changes_losses_by_no_more_than_rounding(tmp_path: Path) -> None:
    one = losses(tmp_path / "one")
    four = losses(tmp_path / "four", world_size=4)
    assert np.abs(four - one).max() < 1e-5
    # Straight runs that differ in nothing but how a batch is cut tell what rounding does.
    straight = [
        losses(tmp_path / f"micro-{size}", precision="bf16", micro_batch_size=size)
        for size in (1, 2, 4, 8)
    ]
    spread = max(np.abs(run - other).max() for run, other in combinations(straight, 2))
    two = losses(tmp_path / "two", precision="bf16", world_size=2)
    assert min(np.abs(two - run).max() for run in straight) <= spread
    assert spread < 2e-3


def test_a_damaged_newest_checkpoint_is_passed_over_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, uri = tiny_plan(tmp_path)
    store = open_store(uri)
    assert life(plan, uri, tmp_path / "work", step=8, committed=6)
    newest = step_prefix(plan.checkpoint_prefix, 6)
    assert latest(store, plan.checkpoint_prefix) == newest
    damaged = f"{newest}/{read_manifest(store, newest).moments.name}"
    body = bytearray(store.get(damaged))
    body[-1] ^= 1
    store.put(damaged, bytes(body))
    assert latest(store, plan.checkpoint_prefix) == step_prefix(plan.checkpoint_prefix, 3)
    assert f"{damaged} was altered" in caplog.text
    final = run_here(plan, uri, tmp_path / "work")
    other, other_uri = tiny_plan(tmp_path / "undisturbed")
    undisturbed = run_here(other, other_uri, tmp_path / "w2")
    assert tensors_of(store, final) == tensors_of(open_store(other_uri), undisturbed)


def test_a_checkpoint_of_another_plan_is_refused_naming_the_field(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    assert life(plan, uri, tmp_path / "work", step=5, committed=3)
    other = replace(plan, schedule=replace(plan.schedule, eta_max=0.5))
    with pytest.raises(PlanMismatchError, match=r"schedule\.eta_max was 0\.01, now 0\.5"):
        run_here(other, uri, tmp_path / "work")
    assert run_here(replace(plan, checkpoint_every_steps=5), uri, tmp_path / "work")


def test_trunk_last_and_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    plan = replace(plan, trunk_step=4, checkpoint_every_steps=2)
    run_here(plan, uri, tmp_path / "work")
    assert committed_steps(open_store(uri), plan.checkpoint_prefix) == [12, 10, 4]


def test_the_next_update_starts_from_a_trunk_with_or_without_moments(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    trunk = run_here(plan, uri, tmp_path / "work")
    finals: dict[str, tuple[str, str]] = {}
    for moments in ("keep", "reset"):
        following, _ = tiny_plan(tmp_path, update=moments, num_steps=1)
        following = replace(
            following, initial=trunk, optimizer=replace(plan.optimizer, moments=moments)
        )
        final = run_here(following, uri, tmp_path / "work")
        finals[moments] = tensors_of(open_store(uri), final)
    assert finals["keep"] != finals["reset"]
    rows = read_metrics(open_store(uri), LAYOUT.metrics("u1"))
    first = read_metrics(open_store(uri), LAYOUT.metrics("keep"))[0]
    assert first[LOSS] < rows[0][LOSS]


@pytest.mark.parametrize("moments", ["keep", "reset"])
def test_an_infinite_trunk_goes_on_from_before_its_anneal(tmp_path: Path, moments: str) -> None:
    config = ScheduleConfig(kind="infinite", eta_max=0.01, decay_fraction=1 / 3)
    plan, uri = tiny_plan(tmp_path)
    tokens = plan.global_batch_tokens
    plan = replace(plan, schedule=resolve(config, total_tokens=12 * tokens), trunk_step=8)
    release = run_here(plan, uri, tmp_path / "work")
    trunk = step_prefix(plan.checkpoint_prefix, 8)
    store = open_store(uri)
    assert tensors_of(store, trunk) != tensors_of(store, release)

    following = replace(
        tiny_plan(tmp_path, update="u2")[0],
        initial=trunk,
        schedule=resolve(config, total_tokens=12 * tokens, trunk_tokens=8 * tokens),
        optimizer=replace(plan.optimizer, moments=moments),
    )
    begun: list[dict[str, torch.Tensor]] = []

    def look(model: StreamLoss, optimizer: torch.optim.AdamW, *_: object, **__: object) -> None:
        assert isinstance(model.decoder, Decoder)
        begun.append(model.decoder.state_dict())
        begun.append(moments_of(model.decoder, optimizer))

    with mock.patch("training.worker.train", look):
        run_worker(following, uri, work_dir=tmp_path / "work")
    manifest = read_manifest(store, trunk)
    stored = [load(store.get(f"{trunk}/{file.name}")) for file in manifest.files[:2]]
    if moments == "reset":
        stored[1] = {}
    for found, expected in zip(begun, stored, strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    run_here(following, uri, tmp_path / "work")
    rates = [row[LR] for row in read_metrics(store, LAYOUT.metrics("u2"))]
    assert rates[:8] == [plan.schedule.eta_const] * 8
    assert rates[8] < rates[7]


def test_an_update_starts_from_a_hugging_face_directory(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=1)
    decoder = Decoder(MODEL, seed=plan.seed)
    write_model(tmp_path / "hub", MODEL, decoder.state_dict(), start_id=0, end_id=0)
    store = LocalObjects(tmp_path / "store")
    for path in (tmp_path / "hub").iterdir():
        store.put_file(f"imported/{path.name}", path)
    random = run_here(plan, uri, tmp_path / "work")
    imported = replace(
        tiny_plan(tmp_path / "store", num_steps=1, update="u2")[0], seed=99, initial="imported"
    )
    final = run_here(imported, uri, tmp_path / "work")
    assert tensors_of(store, random) == tensors_of(store, final)
    wrong = replace(imported, update="u3", checkpoint_prefix=Layout("tiny").checkpoints("u3"))
    wrong = replace(wrong, model=replace(plan.model, rope_theta=5.0))
    with pytest.raises(ValueError, match=r"rope_theta is 10000\.0 there, expected 5\.0"):
        run_here(wrong, uri, tmp_path / "work")


def test_a_missing_start_is_named(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path / "store", num_steps=1)
    with pytest.raises(NotFoundError, match=r"nor a model under gone/step-3 .* update u1 of tiny"):
        run_here(replace(plan, initial="gone/step-3"), uri, tmp_path / "work")


def test_an_altered_shard_stops_the_run_by_name(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    store = open_store(uri)
    key = f"{plan.mixture.streams[0].prefix}/shard.00001.mds"
    body = bytearray(store.get(key))
    body[-1] ^= 1
    store.put(key, bytes(body))
    with pytest.raises(CorruptError, match=r"prose/train/shard\.00001\.mds was altered"):
        run_here(plan, uri, tmp_path / "work")


def test_state_json_says_what_was_seen_of_each_stream(tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path)
    final = run_here(plan, uri, tmp_path / "work")
    progress = json.loads(open_store(uri).get(f"{final}/state.json"))
    new, old = (stream.name for stream in plan.mixture.streams)
    assert progress["tokens_seen"] == {new: 12 * 6 * 16, old: 12 * 2 * 16}
