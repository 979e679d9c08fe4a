"""What goes wrong in a step is passed over or undone, on every rank, and every kill between."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from storage.manifest import identity_of, load
from storage.objects import ObjectStore, open_store
from tests.support.killing_store import KillingObjects, count_operations, run_killed
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, SEQ_LEN, VOCAB, mint_rows, tensors_of, tiny_plan
from training.checkpoint.index import Progress, committed_steps, step_prefix
from training.config import Mixture, TrainPlan
from training.data.order import Order
from training.errors import TrainingDivergedError
from training.guard.skips import Skip, digest_of, read_skips, record_skip, samples_of
from training.loss import StreamLoss
from training.metrics import (
    GRAD_NORM,
    LOSS,
    MEASURED,
    REWINDS,
    SKIPPED_STEPS,
    STEP,
    TOKENS_SEEN,
    WEIGHT_NORM,
    read_metrics,
)
from training.worker import run_worker

BATCH_TOKENS = 8 * SEQ_LEN
POISONED = range(100, 120)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learnable_rows(count: int) -> np.ndarray:
    """Every token but the first three of a row follows from the one before."""
    random = np.random.default_rng(0)
    following = np.concatenate([[1], 1 + random.permutation(VOCAB - 1)])
    rows = np.empty((count, SEQ_LEN + 1), np.uint16)
    rows[:, :3] = random.integers(1, VOCAB, (count, 3))
    for column in range(2, SEQ_LEN):
        rows[:, column + 1] = following[rows[:, column]]
    return rows


def learnable_plan(root: Path, *, poisoned: range = range(0), num_steps: int = 135) -> TrainPlan:
    """A run that learns; the batches of ``poisoned`` have their tokens permuted in every row."""
    plan, uri = tiny_plan(root, num_steps=num_steps)
    rows = learnable_rows(1200)
    stream = replace(plan.mixture.streams[0], parts=1, samples=1200, available=1200)
    identity = identity_of(9)[:12]
    stream = replace(stream, snapshot=identity, prefix=LAYOUT.shards(identity, "prose", "train"))
    mixture = Mixture(streams=(stream,), seed=5)
    random = np.random.default_rng(1)
    for row in samples_of(Order(mixture, 8), poisoned)[:, 1]:
        rows[row] = random.permuted(rows[row])
    mint_rows(open_store(uri), 9, rows, rows_per_shard=300)
    return replace(plan, mixture=mixture, checkpoint_every_steps=10)


def rows_of(root: Path, plan: TrainPlan) -> list[dict[str, float]]:
    rows = read_metrics(open_store(root.as_uri()), LAYOUT.metrics(plan.update))
    return [{key: row[key] for key in row if key not in MEASURED} for row in rows]


def final_of(root: Path, plan: TrainPlan) -> tuple[str, str]:
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    return tensors_of(open_store(root.as_uri()), final)


def test_a_poisoned_window_is_gone_back_from_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = learnable_plan(tmp_path / "spike", poisoned=POISONED)
    with caplog.at_level(logging.WARNING):
        run_worker(plan, (tmp_path / "spike").as_uri(), work_dir=tmp_path / "w")
    store = open_store((tmp_path / "spike").as_uri())
    (skip,) = read_skips(store, plan).recorded
    assert POISONED.start < skip.found_at_step <= POISONED.start + 5
    assert skip.reason == "spike"
    # The poison is the batch that makes step 101: it and ten before, twenty behind the finding.
    assert (skip.first_step, skip.end_step) == (90, skip.found_at_step + 20)
    assert skip.end_step >= POISONED.stop
    passed = range(skip.first_step, skip.end_step)
    order = Order(plan.mixture, 8)
    assert skip.samples_sha256 == digest_of(samples_of(order, passed))
    assert "training goes on from the newest checkpoint of step 90 or before" in caplog.text

    rows = rows_of(tmp_path / "spike", plan)
    assert [row[STEP] for row in rows] == list(range(1, plan.num_steps + 1))
    assert [row[STEP] - 1 for row in rows if LOSS not in row] == list(passed)
    assert rows[-1][SKIPPED_STEPS] == len(passed)
    assert rows[-1][TOKENS_SEEN] == (plan.num_steps - len(passed)) * BATCH_TOKENS
    assert [row[REWINDS] for row in rows] == [0] * 90 + [1] * (plan.num_steps - 90)
    losses = [row[LOSS] for row in rows if LOSS in row]
    assert max(losses[90:]) < 1.1 * max(losses[80:90])
    final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
    state = load(store, f"{final}/state.json", Progress)
    assert state.skips == (0,)
    assert sum(state.tokens_seen.values()) == rows[-1][TOKENS_SEEN]

    # As if it had been known from the start: nothing of the branch that was left remains.
    known = learnable_plan(tmp_path / "known", poisoned=POISONED)
    record_skip(open_store((tmp_path / "known").as_uri()), known, skip)
    run_worker(known, (tmp_path / "known").as_uri(), work_dir=tmp_path / "w2")
    assert final_of(tmp_path / "known", known) == final_of(tmp_path / "spike", plan)


def test_a_kill_at_any_moment_of_a_rewind_changes_no_bit(tmp_path: Path) -> None:
    plan = learnable_plan(tmp_path / "whole", poisoned=POISONED, num_steps=126)
    run_worker(plan, (tmp_path / "whole").as_uri(), work_dir=tmp_path / "w")
    whole, final = rows_of(tmp_path / "whole", plan), final_of(tmp_path / "whole", plan)

    begun = learnable_plan(tmp_path / "begun", poisoned=POISONED, num_steps=126)
    assert begun == plan
    stops = iter([False] * 100 + [True])
    run_worker(
        plan,
        (tmp_path / "begun").as_uri(),
        work_dir=tmp_path / "w",
        is_asked_to_stop=lambda: next(stops),
    )
    assert (
        max(committed_steps(open_store((tmp_path / "begun").as_uri()), plan.checkpoint_prefix))
        == 101
    )

    def live(root: Path, wrap: Callable[[ObjectStore], ObjectStore]) -> None:
        with mock.patch("training.worker.open_store", lambda uri: wrap(open_store(uri))):
            run_worker(plan, root.as_uri(), work_dir=root.with_name(f"{root.name}-work"))

    shutil.copytree(tmp_path / "begun", tmp_path / "counted")
    operations = count_operations(
        open_store((tmp_path / "counted").as_uri()),
        lambda store: live(tmp_path / "counted", lambda _: store),
    )
    assert final_of(tmp_path / "counted", plan) == final
    kills = 0
    for operation in range(2, operations, max(1, operations // 8)):
        root = tmp_path / f"killed-{operation}"
        shutil.copytree(tmp_path / "begun", root)
        dying = lambda store, n=operation: KillingObjects(store, kill_before=n)  # noqa: E731
        ended = run_killed(lambda root=root, dying=dying: live(root, dying))
        assert ended.killed or ended.code == 0, ended.error
        kills += ended.killed
        live(root, lambda store: store)
        assert final_of(root, plan) == final
        assert rows_of(root, plan) == whole
        shutil.rmtree(root)
    assert kills >= 7


def test_a_second_spike_at_the_same_place_asks_for_help(tmp_path: Path) -> None:
    plan = learnable_plan(tmp_path, poisoned=range(100, 135))
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss rose .* steps 91 to 12\d were passed over .* look at the data",
    ):
        run_worker(plan, tmp_path.as_uri(), work_dir=tmp_path / "w")
    # It is no accident of this life.
    with pytest.raises(TrainingDivergedError, match="then lower eta_max"):
        run_worker(plan, tmp_path.as_uri(), work_dir=tmp_path / "w")
    assert len(read_skips(open_store(tmp_path.as_uri()), plan).recorded) == 1


def test_rewarming_is_no_spike(tmp_path: Path) -> None:
    first = learnable_plan(tmp_path, num_steps=120)
    run_worker(first, tmp_path.as_uri(), work_dir=tmp_path / "w")
    schedule = replace(first.schedule, warmup_tokens=30 * BATCH_TOKENS, eta_max=0.1)
    second = replace(
        first,
        update="u2",
        checkpoint_prefix=LAYOUT.checkpoints("u2"),
        initial=step_prefix(first.checkpoint_prefix, 120),
        schedule=schedule,
    )
    run_worker(second, tmp_path.as_uri(), work_dir=tmp_path / "w")
    losses = [row[LOSS] for row in rows_of(tmp_path, second)]
    assert max(losses) > 1.3 * losses[0]
    assert read_skips(open_store(tmp_path.as_uri()), second).recorded == ()


class Poisoned(StreamLoss):
    """Not finite on a batch in which one row is ``marked``."""

    marked: Tensor
    where = "loss"

    def forward(self, inputs: Tensor, targets: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        total, nats = super().forward(inputs, targets, streams)
        if (inputs == self.marked[:-1]).all(1).any():
            if self.where == "loss":
                return total * float("nan"), nats * float("inf")
            weight = next(self.parameters())
            return total + (weight.flatten()[0] * 0).sqrt(), nats
        return total, nats


@pytest.mark.parametrize(("world_size", "where"), [(1, "loss"), (2, "loss"), (2, "gradient")])
def test_a_batch_that_is_not_finite_on_one_rank_is_passed_over_on_all(
    tmp_path: Path, world_size: int, where: str
) -> None:
    finals: list[tuple[str, str]] = []
    histories: list[list[dict[str, float]]] = []
    skips: list[Skip] = []
    for name in ("found", "known"):
        plan = replace(learnable_plan(tmp_path / name, num_steps=8), checkpoint_every_steps=3)
        store = open_store((tmp_path / name).as_uri())
        for skip in skips:
            record_skip(store, plan, skip)
        marked = learnable_rows(1200)[samples_of(Order(plan.mixture, 8), range(4, 5))[-1, 1]]
        Poisoned.marked, Poisoned.where = torch.from_numpy(marked.astype(np.int64)), where
        model = Poisoned if name == "found" else StreamLoss
        with mock.patch("training.worker.StreamLoss", model):
            run_ranks(plan, store.uri, tmp_path / f"{name}-work", world_size=world_size)
        skips = list(read_skips(store, plan).recorded)
        finals.append(final_of(tmp_path / name, plan))
        histories.append(rows_of(tmp_path / name, plan))
    (skip,) = skips
    assert (skip.first_step, skip.end_step, skip.reason) == (4, 5, "not finite")
    _, samples = Order(plan.mixture, 8).step(4)
    assert skip.samples == {plan.mixture.streams[0].name: samples.tolist()}
    assert finals[0] == finals[1]
    assert histories[0] == histories[1]
    assert [row[STEP] for row in histories[0] if LOSS not in row] == [5]
    assert all((GRAD_NORM in row) == (LOSS in row) for row in histories[0])


def test_more_than_five_of_a_hundred_that_are_not_finite_end_the_training(tmp_path: Path) -> None:
    plan = learnable_plan(tmp_path, num_steps=20)

    def spoil(model: nn.Module, *_: object) -> None:
        model.register_forward_hook(lambda _m, _i, out: (out[0] * float("nan"), out[1]))

    for _ in range(2):
        with pytest.raises(TrainingDivergedError, match=r"at most 5 of 100 .* have step 6 .* 0, 1"):
            run_worker(plan, tmp_path.as_uri(), work_dir=tmp_path / "w", on_ready=spoil)
        assert len(read_skips(open_store(tmp_path.as_uri()), plan).recorded) == 5


class Flip:
    """Turns a bit of one weight round before some steps of a life; asked before every step."""

    def __init__(self, *steps: int, bit: int, rank: int) -> None:
        self.steps, self.bit, self.rank = set(steps), bit, rank
        self.asked = 0
        self.weight: Tensor | None = None

    def ready(self, model: nn.Module, _: torch.optim.Optimizer, __: int) -> None:
        weights = dict(model.named_parameters())
        name = next(name for name in weights if name.endswith("embed_tokens.weight"))
        self.weight = weights[name].detach()

    def __call__(self) -> bool:
        self.asked += 1
        is_here = not dist.is_initialized() or dist.get_rank() == self.rank
        if self.asked in self.steps and is_here:
            assert self.weight is not None
            # The largest weight that has no such bit yet.
            bits = self.weight.view(-1).view(torch.int32)
            has_bit = (bits & (1 << self.bit)) != 0
            index = self.weight.view(-1).abs().masked_fill(has_bit, 0).argmax()
            bits[index] ^= 1 << self.bit
        return False


@pytest.mark.parametrize(("world_size", "rank", "bit"), [(1, 0, 25), (2, 1, 3)])
def test_a_flipped_bit_is_found_within_ten_steps_and_undone(
    tmp_path: Path, world_size: int, rank: int, bit: int
) -> None:
    finals: list[tuple[str, str]] = []
    for name in ("flipped", "whole"):
        plan = replace(learnable_plan(tmp_path / name, num_steps=30), checkpoint_every_steps=4)
        flip = Flip(*([15] if name == "flipped" else []), bit=bit, rank=rank)
        run_flipped(plan, tmp_path / name, tmp_path / f"{name}-work", flip, world_size)
        finals.append(final_of(tmp_path / name, plan))
    (skip,) = read_skips(open_store((tmp_path / "flipped").as_uri()), plan).recorded
    assert skip.reason == "corruption"
    assert skip.first_step == skip.end_step == 12
    assert 15 <= skip.found_at_step < 15 + 10
    assert "embed_tokens.weight on " in skip.finding
    assert finals[0] == finals[1]
    rows = rows_of(tmp_path / "flipped", plan)
    assert [row[STEP] for row in rows if WEIGHT_NORM in row] == [10, 20, 30]


def run_flipped(plan: TrainPlan, root: Path, work: Path, flip: Flip, world_size: int) -> None:
    def run(*arguments: object, **options: object) -> None:
        run_worker(*arguments, **options, is_asked_to_stop=flip, on_ready=flip.ready)  # type: ignore[arg-type]

    if world_size == 1:
        run(plan, root.as_uri(), work_dir=work)
        return
    with mock.patch("tests.training.local_ranks.run_worker", run):
        run_ranks(plan, root.as_uri(), work, world_size=world_size)


def test_corruption_at_the_same_place_twice_stops_and_names_the_tensor(tmp_path: Path) -> None:
    plan = replace(learnable_plan(tmp_path, num_steps=30), checkpoint_every_steps=4)
    # Steps 13 to 16, and after the rewind to 12 the same again.
    flip = Flip(15, 19, bit=25, rank=0)
    with pytest.raises(TrainingDivergedError, match=r"embed_tokens\.weight on rank 0 .* twice"):
        run_flipped(plan, tmp_path, tmp_path / "w", flip, 1)
