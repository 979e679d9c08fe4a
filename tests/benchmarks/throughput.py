"""Training tokens per second of the whole engine, of the Hugging Face Trainer and of a bare loop.

All three train the same weights on the same samples in the same order with the same learning rates,
in bf16 autocast. They take turns of a few steps, so that a busy machine slows all alike: read the
ratios. The engine is ``training.worker.run_worker`` as an update runs it, with verified shards,
masked documents, journal and the final checkpoint; the peers have nothing of that.

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
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
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
from training.schedule import lr_at
from training.streams import open_streams
from training.worker import run_worker

SETTLING_STEPS = 10
"""At the start, not timed: allocations, first touches of memory."""


class Turns:
    """Lets one of several threads run, for a number of steps at a time."""

    def __init__(self) -> None:
        self._granted = threading.Semaphore(0)
        self._taken = threading.Semaphore(0)
        self.losses: list[float] = []
        self.error: BaseException | None = None

    def wait(self) -> None:
        """Called by the contestant before each step."""
        self._granted.acquire()

    def done(self, loss: float) -> None:
        """Called by the contestant after each step."""
        self.losses.append(loss)
        self._taken.release()

    def failed(self, error: BaseException) -> None:
        """The contestant ended early."""
        self.error = error
        self._taken.release()

    def seconds_of(self, steps: int) -> float:
        """Let the contestant take ``steps`` steps, and time them."""
        started = time.perf_counter()
        for _ in range(steps):
            self._granted.release()
        for _ in range(steps):
            self._taken.acquire()
            if self.error is not None:
                raise self.error
        return time.perf_counter() - started


Contestant = Callable[[Turns], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each contestant")
    parser.add_argument("--block", type=int, default=10, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loop", type=Path, default=Path(__file__).with_name("bare_loop.py"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        _compare(Path(folder), arguments.steps, arguments.block, arguments.loop)


def _compare(folder: Path, num_steps: int, block: int, loop: Path) -> None:
    store = open_store((folder / "store").as_uri())
    plan = make_plan(*store_rows(store, sparse_bigram_rows(num_steps)), num_steps=num_steps)
    directory = _exported(folder / "model", plan)
    print(_machine())
    print(
        f"{num_parameters(MODEL):,} parameters, {plan.global_batch_samples} x {plan.seq_len} "
        f"tokens a step in micro batches of {MICRO_BATCH_SIZE}, {num_steps} steps, turns of "
        f"{block}, configuration {identity_of(asdict(plan))[:16]}"
    )
    contestants: dict[str, Contestant] = {
        "ours": lambda turns: _ours(turns, plan, store.uri, folder / "work"),
        "Trainer": lambda turns: _trainer(turns, plan, directory, _read(store, plan, folder)),
        loop.name: lambda turns: _loop(turns, plan, loop, directory, _read(store, plan, folder)),
    }
    results = _race(contestants, num_steps, block)
    rows = read_metrics(store, Layout(plan.lineage).metrics(plan.update))
    results["ours"][1][:] = [row[LOSS] for row in rows]
    _report(results, plan, block)


def _race(
    contestants: dict[str, Contestant], num_steps: int, block: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of every turn, and all losses, of each contestant."""
    turns = {name: Turns() for name in contestants}
    for name, contestant in contestants.items():
        threading.Thread(target=_run, args=(contestant, turns[name]), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for each in turns.values():
        each.seconds_of(SETTLING_STEPS)
    names = list(turns)
    for number in range((num_steps - SETTLING_STEPS) // block):
        # Whoever comes first in a round finds another's data in the caches.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(turns[name].seconds_of(block))
    return {name: (seconds[name], turns[name].losses) for name in contestants}


def _run(contestant: Contestant, turns: Turns) -> None:
    try:
        contestant(turns)
    except BaseException as error:  # handed to the main thread, which raises it
        turns.failed(error)


def _ours(turns: Turns, plan: TrainPlan, uri: str, work_dir: Path) -> None:
    is_first = True

    def before_a_step() -> bool:
        nonlocal is_first
        if not is_first:
            turns.done(float("nan"))
        is_first = False
        turns.wait()
        return False

    run_worker(plan, uri, work_dir=work_dir, is_asked_to_stop=before_a_step)
    turns.done(float("nan"))


def _loop(
    turns: Turns, plan: TrainPlan, file: Path, directory: Path, batches: Iterator[np.ndarray]
) -> None:
    spec = importlib.util.spec_from_file_location("loop", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plan.optimizer
    losses: Iterator[float] = module.steps(
        directory,
        batches,
        _rates(plan),
        (config.beta1, config.beta2),
        config.eps,
        config.weight_decay,
        config.max_grad_norm,
    )
    for _ in range(plan.num_steps):
        turns.wait()
        turns.done(next(losses))


def _trainer(turns: Turns, plan: TrainPlan, directory: Path, batches: Iterator[np.ndarray]) -> None:
    """The Trainer with what its documentation advises: bf16, fused AdamW."""
    declare_missing_operators()
    transformers: Any = importlib.import_module("transformers")

    class Gate(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                turns.done(logs["loss"])

    rows = [row for batch in batches for row in batch]
    settings = transformers.TrainingArguments(
        output_dir=str(directory.parent / "trainer"),
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
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
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


def _read(store: Any, plan: TrainPlan, folder: Path) -> Iterator[np.ndarray]:
    """The global batches, ``int64[B, T + 1]``, in the engine's order."""
    order = Order(plan.mixture, plan.global_batch_samples)
    shards = open_streams(store, plan, folder / "read")
    batches = Batches(order, shards, micro_batch_size=plan.global_batch_samples)
    for step in range(plan.num_steps):
        yield np.concatenate([tokens.numpy() for tokens in batches.read(step).tokens])


def _rates(plan: TrainPlan) -> Sequence[float]:
    tokens = plan.global_batch_tokens
    return [lr_at((step + 1) * tokens, plan.schedule) for step in range(plan.num_steps)]


def _exported(directory: Path, plan: TrainPlan) -> Path:
    decoder = Decoder(MODEL, seed=plan.seed)
    write_model(directory, MODEL, decoder.state_dict(), start_id=0, end_id=0)
    return directory


def _machine() -> str:
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    sets = ", ".join(name for name in known if name in flags) or platform.machine()
    return (
        f"{platform.processor() or platform.machine()} with {sets}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def _report(
    results: dict[str, tuple[list[float], list[float]]], plan: TrainPlan, block: int
) -> None:
    tokens = block * plan.global_batch_tokens
    ours, _ = results["ours"]
    print(f"{'':24}{'tokens/s':>10}{'spread':>18}{'ours is':>9}{'worst':>7}{'last loss':>11}")
    for name, (seconds, losses) in results.items():
        ratios = [theirs / mine for mine, theirs in zip(ours, seconds, strict=True)]
        quarter = statistics.quantiles(seconds, n=4)
        spread = f"{tokens / quarter[2]:,.0f}-{tokens / quarter[0]:,.0f}"
        print(
            f"{name:24}{tokens / statistics.median(seconds):10,.0f}{spread:>18}"
            f"{statistics.median(ratios):8.2f}x{min(ratios):6.2f}x"
            f"{statistics.mean(losses[-block:]):11.4f}"
        )


if __name__ == "__main__":
    main()
