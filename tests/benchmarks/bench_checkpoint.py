"""What checkpoints cost a training, beside a bare loop and torch's own asynchronous checkpoints.

A 54M-parameter model with AdamW (650 MB of state), 8,192 tokens a step, a checkpoint every 10
steps. The three loops take turns, so that a busy machine slows all alike: read the ratios. Then the
parts: a durable save beside a raw write of the same bytes, a verified restore beside a clone. Run
it with ``make bench``, or ``python tests/benchmarks/bench_checkpoint.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import contextlib
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from storage.local_objects import LocalObjects
from tests.training.tiny_run import tiny_plan
from training.checkpoint.index import discard, step_prefix
from training.checkpoint.saver import CheckpointSaver
from training.checkpoint.state import TrainState, load_state, progress_of, weights_of, write_local
from training.checkpoint.tensors import bytes_of
from training.config import ModelConfig, TrainPlan
from training.decoder.model import Decoder
from training.optim import build_optimizer, moments_of

MODEL = ModelConfig(
    vocab_size=32_768,
    hidden_size=512,
    num_layers=12,
    num_heads=8,
    num_kv_heads=8,
    intermediate_size=1408,
)
TOKENS_A_STEP = 8192
EVERY_STEPS = 10


class Loop:
    """Takes steps; what saves is told of them and says how long they waited for it."""

    def __init__(self, plan: TrainPlan, *, seq_len: int) -> None:
        model = Decoder(MODEL, seed=0)
        self.state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer))
        self.tokens = torch.randint(0, MODEL.vocab_size, (TOKENS_A_STEP // seq_len, seq_len + 1))

    def step(self, before_update: Callable[[], None], after: Callable[[], None]) -> list[float]:
        """Seconds of the whole step, and of both hooks."""
        started = time.perf_counter()
        for row in self.tokens.split(4):
            with torch.autocast("cpu", torch.bfloat16):
                self.state.model(row[:, :-1], targets=row[:, 1:]).div(TOKENS_A_STEP).backward()
        at_update = time.perf_counter()
        before_update()
        waited = time.perf_counter() - at_update
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        at_end = time.perf_counter()
        after()
        now = time.perf_counter()
        return [now - started, waited + now - at_end]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each loop; multiples of 10")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=5, help="of the parts")
    parser.add_argument("--work-dir", type=Path, help="on the disk to measure; default: temporary")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as folder:
        root = Path(folder)
        plan = replace(tiny_plan(root / "store")[0], model=MODEL, num_steps=10**6)
        loop = Loop(plan, seq_len=arguments.seq_len)
        loop.step(_nothing, _nothing)
        num_bytes = sum(tensor.nbytes for tensor in _tensors(loop.state).values())
        print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads of torch")
        print(f"{num_bytes / 1e6:.0f} MB of state, {TOKENS_A_STEP} tokens a step")
        _measure_loops(loop, plan, root, arguments.steps)
        _measure_parts(loop.state, plan, root, arguments.rounds)


def _measure_loops(loop: Loop, plan: TrainPlan, root: Path, steps: int) -> None:
    store = LocalObjects(root / "store")
    saver = CheckpointSaver(store, plan, root / "work")
    peer = _TorchAsync(root / "dcp")
    contestants: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "no checkpoints": (_nothing, _nothing),
        "ours": (saver.wait_until_copied, lambda: saver.start(loop.state, {})),
        "torch DCP async_save": (_nothing, lambda: peer.start(loop.state)),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in contestants}
    # The first save allocates its buffers.
    saver.start(loop.state, {})
    saver.wait_until_copied()
    peer.start(loop.state)
    peer.wait()
    for _ in range(0, steps, EVERY_STEPS):
        for name, (before_update, after) in contestants.items():
            rows = [loop.step(_nothing, after)]
            rows += [loop.step(before_update, _nothing) for _ in range(EVERY_STEPS - 1)]
            found[name] += rows
            peer.wait()
            _wait_until_saved(store, plan, loop.state.step - EVERY_STEPS + 1, name)
    saver.close(is_complete=True)
    bare = [row[0] for row in found["no checkpoints"]]
    print(f"\n{'':24}{'step, median':>14}{'step, mean':>12}{'over bare':>11}{'stall a save':>14}")
    for name, rows in found.items():
        seconds = [row[0] for row in rows]
        stall = sum(row[1] for row in rows) / (len(rows) / EVERY_STEPS)
        over = sum(seconds) / sum(bare) - 1
        print(
            f"{name:24}{statistics.median(seconds):13.3f}s{statistics.mean(seconds):11.3f}s"
            f"{over:11.1%}{stall * 1e3:11.1f} ms"
        )
    discard(store, step_prefix(plan.checkpoint_prefix, loop.state.step))


def _measure_parts(state: TrainState, plan: TrainPlan, root: Path, rounds: int) -> None:
    store = LocalObjects(root / "parts")
    tensors = _tensors(state)
    progress = progress_of(plan, state, {})
    saver = CheckpointSaver(store, plan, root / "parts-work")
    saver.start(state, {})
    saver.close(is_complete=True)
    checkpoint = step_prefix(plan.checkpoint_prefix, state.step)
    weights, moments = weights_of(state.model), moments_of(state.model, state.optimizer)
    parts: dict[str, Callable[[], object]] = {
        "raw write + fsync": lambda: _write_raw(root / "raw", tensors),
        "durable save": lambda: write_local(root / "durable", progress, weights, moments),
        "fresh clone": lambda: [tensor.clone() for tensor in tensors.values()],
        "verified restore": lambda: load_state(store, checkpoint, root / "parts-work"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            result = part()
            elapsed = time.perf_counter() - started
            del result
            if number:  # the first warms up
                seconds[name].append(elapsed)
    print(f"\n{'':24}{'median':>10}{'best':>10}{'ratio':>8}{'lowest':>8}{'highest':>9}")
    for base, name in (("raw write + fsync", "durable save"), ("fresh clone", "verified restore")):
        for row in (base, name):
            pairs = zip(seconds[row], seconds[base], strict=True)
            ratios = [mine / theirs for mine, theirs in pairs]
            print(
                f"{row:24}{statistics.median(seconds[row]):9.3f}s{min(seconds[row]):9.3f}s"
                f"{statistics.median(ratios):8.2f}{min(ratios):8.2f}{max(ratios):9.2f}"
            )


class _TorchAsync:
    """Torch's distributed checkpoint on one rank, in a thread, as its documentation has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._under_way: Future[Any] | None = None
        if not dist.is_initialized():
            rendezvous = folder.with_name("rendezvous")
            dist.init_process_group(
                "gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1
            )

    def start(self, state: TrainState) -> None:
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        found: Any = dcp.async_save(_tensors(state), checkpoint_id=str(self._folder))  # pyright: ignore[reportPrivateImportUsage]
        self._under_way = found

    def wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None


def _wait_until_saved(store: LocalObjects, plan: TrainPlan, step: int, name: str) -> None:
    """Do not let one contestant's writing slow the next."""
    key = f"{step_prefix(plan.checkpoint_prefix, step)}/manifest.json"
    while name == "ours" and not store.exists(key):
        time.sleep(0.05)


def _write_raw(path: Path, tensors: dict[str, Tensor]) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with path.open("wb", buffering=0) as file:
        for tensor in tensors.values():
            file.write(bytes_of(tensor))
        os.fsync(file.fileno())


def _tensors(state: TrainState) -> dict[str, Tensor]:
    weights, moments = weights_of(state.model), moments_of(state.model, state.optimizer)
    return {name: tensor.detach() for name, tensor in {**weights, **moments}.items()}


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
