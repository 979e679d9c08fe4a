"""Training tokens per second of the whole engine, of the Hugging Face Trainer and of a bare loop.

All three train the same weights on the same samples in the same order with the same learning rates,
in bf16 autocast. Each has a process of its own, as its users would start it; they take turns of a
few steps, so that a busy machine slows all alike: read the ratios. The engine is
``training.worker.run_worker`` as an update runs it, with verified shards, masked documents, journal
and the final checkpoint; the peers have nothing of that.

Run: ``python -m tests.benchmarks.throughput [--steps 300] [--loop FILE]``. FILE is Python and
defines

    steps(directory, batches, lrs, betas, eps, weight_decay, max_grad_norm) -> Iterator[float]

a generator that trains the Hugging Face directory ``directory`` on ``batches`` (an iterator of
``int64[B, T + 1]`` arrays), one optimizer step a batch, with the rates ``lrs``; matrices decay by
``weight_decay``, gradients are clipped; it yields each step's mean loss in nats a token. Without
FILE the loop is ``bare_loop.py`` beside this file.
"""

# ruff: noqa: T201  a script for people

import argparse
import importlib.util
import multiprocessing as mp
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from storage.layout import Layout
from storage.manifest import identity_of
from storage.objects import open_store
from tests.benchmarks.workload import (
    MICRO_BATCH_SIZE,
    MODEL,
    make_plan,
    sparse_bigram_rows,
    store_rows,
)
from training.config import TrainPlan
from training.data.batches import Batches
from training.data.order import Order
from training.decoder.model import Decoder, num_parameters
from training.foreign.torchvision_operators import declare_missing_operators
from training.hub.directory import write_model
from training.loss import targets_of
from training.metrics import LOSS, read_metrics
from training.processor import processor_flags
from training.schedule import lr_at
from training.streams import open_streams
from training.worker import run_worker

SETTLING_STEPS = 10
"""At the start, not timed: allocations, first touches of memory."""


class Turns:
    """In the process of a contestant: which step it may take."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def wait(self) -> None:
        """Called by the contestant before each step."""
        self._connection.recv()

    def done(self, loss: float) -> None:
        """Called by the contestant after each step."""
        self._connection.send(loss)


class Contestant:
    """The process of one of those who are compared, as the others see it."""

    def __init__(self, name: str, contest: "Contest") -> None:
        self.name = name
        self._connection, theirs = mp.Pipe()
        context = mp.get_context("spawn")
        # Beside a benchmark that ends early it must not wait for its turn for ever.
        self._process = context.Process(
            target=_take_part, args=(name, contest, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self.losses: list[float] = []
        self.seconds: list[float] = []
        """Of every turn."""

    def take_turn(self, steps: int) -> float:
        """Let the contestant take ``steps`` steps; returns the seconds that they took."""
        started = time.perf_counter()
        for _ in range(steps):
            self._connection.send(None)
        for _ in range(steps):
            try:
                self.losses.append(self._connection.recv())
            except EOFError:
                raise SystemExit(f"{self.name} ended before its steps; see above why") from None
        return time.perf_counter() - started

    def end(self) -> None:
        """Wait until it has finished what comes after its steps."""
        self._process.join()


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What all contestants train."""

    plan: TrainPlan
    folder: Path
    loop: Path
    threads: int

    @property
    def store_uri(self) -> str:
        return (self.folder / "store").as_uri()

    @property
    def model(self) -> Path:
        """The weights, as a directory of the Hugging Face hub."""
        return self.folder / "model"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each contestant")
    parser.add_argument("--block", type=int, default=10, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loop", type=Path, default=Path(__file__).with_name("bare_loop.py"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store((folder / "store").as_uri())
        num_steps = arguments.steps
        plan = make_plan(*store_rows(store, sparse_bigram_rows(num_steps)), num_steps=num_steps)
        loop = arguments.loop.resolve()
        _compare(
            Contest(plan=plan, folder=folder, loop=loop, threads=arguments.threads),
            arguments.block,
        )


def _compare(contest: Contest, block: int) -> None:
    plan, num_steps = contest.plan, contest.plan.num_steps
    weights = Decoder(MODEL, seed=plan.seed).state_dict()
    write_model(contest.model, MODEL, weights, start_id=plan.start_id, end_id=plan.end_id)
    print(_machine(contest.threads))
    print(
        f"{num_parameters(MODEL):,} parameters, {plan.global_batch_samples} x {plan.seq_len} "
        f"tokens a step in micro batches of {MICRO_BATCH_SIZE}, {num_steps} steps, turns of "
        f"{block}, configuration {identity_of(asdict(plan))[:16]}"
    )
    contestants = [Contestant(name, contest) for name in ("ours", "Trainer", contest.loop.name)]
    _race(contestants, num_steps, block)
    rows = read_metrics(open_store(contest.store_uri), Layout(plan.lineage).metrics(plan.update))
    contestants[0].losses = [row[LOSS] for row in rows]
    _report(contestants, plan, block)


def _race(contestants: Sequence[Contestant], num_steps: int, block: int) -> None:
    for each in contestants:
        each.take_turn(SETTLING_STEPS)
    for number in range((num_steps - SETTLING_STEPS) // block):
        # Whoever comes first in a round finds another's data in the caches.
        first = number % len(contestants)
        for each in [*contestants[first:], *contestants[:first]]:
            each.seconds.append(each.take_turn(block))
    for each in contestants:
        each.take_turn(num_steps - len(each.losses))
        each.end()


def _take_part(name: str, contest: Contest, connection: Connection) -> None:
    """Runs in the process of a contestant."""
    torch.set_num_threads(contest.threads)
    turns = Turns(connection)
    if name == "ours":
        _ours(turns, contest)
    elif name == "Trainer":
        _trainer(turns, contest)
    else:
        _loop(turns, contest)


def _ours(turns: Turns, contest: Contest) -> None:
    is_first = True

    def before_a_step() -> bool:
        nonlocal is_first
        if not is_first:
            turns.done(float("nan"))
        is_first = False
        turns.wait()
        return False

    run_worker(
        contest.plan,
        contest.store_uri,
        work_dir=contest.folder / "work",
        is_asked_to_stop=before_a_step,
    )
    turns.done(float("nan"))


def _loop(turns: Turns, contest: Contest) -> None:
    plan = contest.plan
    spec = importlib.util.spec_from_file_location("loop", contest.loop)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plan.optimizer
    losses: Iterator[float] = module.steps(
        contest.model,
        _read(contest, "loop"),
        _rates(plan),
        (config.beta1, config.beta2),
        config.eps,
        config.weight_decay,
        config.max_grad_norm,
    )
    for _ in range(plan.num_steps):
        turns.wait()
        turns.done(next(losses))


def _trainer(turns: Turns, contest: Contest) -> None:
    """The Trainer with what its documentation advises: bf16, fused AdamW."""
    plan = contest.plan
    declare_missing_operators()
    transformers: Any = importlib.import_module("transformers")

    class Gate(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                turns.done(logs["loss"])

    rows = [row for batch in _read(contest, "trainer") for row in batch]
    settings = transformers.TrainingArguments(
        output_dir=str(contest.folder / "trainer"),
        per_device_train_batch_size=MICRO_BATCH_SIZE,
        gradient_accumulation_steps=plan.global_batch_samples // MICRO_BATCH_SIZE,
        max_steps=plan.num_steps,
        bf16=True,
        use_cpu=True,
        optim="adamw_torch_fused",
        learning_rate=plan.schedule.eta_max,
        adam_beta1=plan.optimizer.beta1,
        adam_beta2=plan.optimizer.beta2,
        adam_epsilon=plan.optimizer.eps,
        weight_decay=plan.optimizer.weight_decay,
        max_grad_norm=plan.optimizer.max_grad_norm,
        # Every step, as the engine's journal.
        logging_steps=1,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        data_seed=0,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(contest.model)
    model.config.use_cache = False

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def create_scheduler(self, *_: Any, **__: Any) -> Any:
            rates = [*_rates(plan), 0.0]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer, lambda step: rates[step] / plan.schedule.eta_max
            )
            return self.lr_scheduler

    def collate(samples: list[np.ndarray]) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(np.stack(samples))
        targets = targets_of(tokens, start_id=plan.start_id, end_id=plan.end_id)
        # Given shifted, or the Trainer would drop each row's last target.
        return {"input_ids": tokens[:, :-1], "labels": targets, "shift_labels": targets}

    trainer = InOrder(
        model=model,
        args=settings,
        train_dataset=rows,
        data_collator=collate,
        callbacks=[Gate()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def _read(contest: Contest, reader: str) -> Iterator[np.ndarray]:
    """The global batches, ``int64[B, T + 1]``, in the engine's order."""
    plan = contest.plan
    order = Order(plan.mixture, plan.global_batch_samples)
    store = open_store(contest.store_uri)
    shards = open_streams(store, plan, contest.folder / "read" / reader)
    batches = Batches(order, shards, micro_batch_size=plan.global_batch_samples)
    for step in range(plan.num_steps):
        yield np.concatenate([tokens.numpy() for tokens in batches.read(step).tokens])


def _rates(plan: TrainPlan) -> Sequence[float]:
    tokens = plan.global_batch_tokens
    return [lr_at((step + 1) * tokens, plan.schedule) for step in range(plan.num_steps)]


def _machine(threads: int) -> str:
    flags = processor_flags()
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    sets = ", ".join(name for name in known if name in flags) or platform.machine()
    return (
        f"{platform.processor() or platform.machine()} with {sets}; torch {torch.__version__}, "
        f"{threads} threads"
    )


def _report(contestants: Sequence[Contestant], plan: TrainPlan, block: int) -> None:
    tokens = block * plan.global_batch_tokens
    ours = contestants[0].seconds
    print(f"{'':24}{'tokens/s':>10}{'spread':>18}{'ours is':>9}{'worst':>7}{'last loss':>11}")
    for each in contestants:
        seconds = each.seconds
        ratios = [theirs / mine for mine, theirs in zip(ours, seconds, strict=True)]
        quarter = statistics.quantiles(seconds, n=4)
        spread = f"{tokens / quarter[2]:,.0f}-{tokens / quarter[0]:,.0f}"
        print(
            f"{each.name:24}{tokens / statistics.median(seconds):10,.0f}{spread:>18}"
            f"{statistics.median(ratios):8.2f}x{min(ratios):6.2f}x"
            f"{statistics.mean(each.losses[-block:]):11.4f}"
        )


if __name__ == "__main__":
    main()
