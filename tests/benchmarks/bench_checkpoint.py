"""What checkpoints cost a training, beside a bare loop and torch's own asynchronous checkpoints.

A 54M-parameter model with AdamW (650 MB of state), 8,192 tokens a step, a checkpoint every 10
steps. First the parts: a durable save beside a raw write of the same bytes, a verified restore
beside a clone. Then three loops that take turns, so that a busy machine slows all alike: read the
ratios. Of the 10 steps only the first few are taken, the others being equal; what they cost more
than bare ones is counted over 10. Run it with ``make bench``, or
``python tests/benchmarks/bench_checkpoint.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import contextlib
import ctypes
import logging
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from storage.local_objects import LocalObjects
from tests.benchmarks.workload import CHECKPOINT_MODEL
from tests.training.tiny_run import tiny_plan
from training.checkpoint.index import MANIFEST, step_prefix
from training.checkpoint.local import write_local
from training.checkpoint.restore import load_state
from training.checkpoint.saver import CheckpointSaver
from training.checkpoint.state import TrainState, progress_of, weights_of
from training.checkpoint.tensors import bytes_of
from training.config import TrainPlan
from training.decoder.model import Decoder
from training.optim import build_optimizer, moments_of

TOKENS_A_STEP = 8192
EVERY_STEPS = 10


class Contestant(Protocol):
    """Something that saves a state while a loop goes on."""

    def start(self, state: TrainState) -> None:
        """Begin to save; called after a step."""

    def before_update(self) -> None:
        """Called before every change of the weights."""

    def wait(self) -> None:
        """Return when nothing is being saved."""


class Interval(NamedTuple):
    """From one checkpoint to the next."""

    step_seconds: list[float]
    stall_seconds: float
    """What the training thread waited for the checkpoint."""
    rest_seconds: float
    """What was left of the saving after these steps."""


class Loop:
    """Takes steps; what saves is told of them."""

    def __init__(self, plan: TrainPlan, *, seq_len: int) -> None:
        model = Decoder(CHECKPOINT_MODEL, seed=0)
        self.state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer))
        self.tokens = torch.randint(
            0, CHECKPOINT_MODEL.vocab_size, (TOKENS_A_STEP // seq_len, seq_len + 1)
        )

    def step(self, before_update: Callable[[], None]) -> float:
        """One step; returns the seconds that the hook took."""
        for row in self.tokens.split(4):
            with torch.autocast("cpu", torch.bfloat16):
                self.state.model(row[:, :-1], targets=row[:, 1:]).div(TOKENS_A_STEP).backward()
        at_update = time.perf_counter()
        before_update()
        waited = time.perf_counter() - at_update
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        return waited

    def interval(self, contestant: Contestant, num_steps: int) -> Interval:
        """Start a checkpoint, take steps."""
        began = time.perf_counter()
        contestant.start(self.state)
        stall = time.perf_counter() - began
        seconds: list[float] = []
        for _ in range(num_steps):
            stall += self.step(contestant.before_update)
            now = time.perf_counter()
            seconds.append(now - began)
            began = now
        contestant.wait()
        return Interval(seconds, stall, time.perf_counter() - began)


class _Nothing:
    def start(self, state: TrainState) -> None:
        pass

    def before_update(self) -> None:
        pass

    def wait(self) -> None:
        pass


class _Ours:
    def __init__(self, plan: TrainPlan, root: Path) -> None:
        self._store, self._prefix = LocalObjects(root / "store"), plan.checkpoint_prefix
        self._saver = CheckpointSaver(self._store, plan, root / "work")
        self._last = -1
        self.before_update = self._saver.wait_until_copied

    def start(self, state: TrainState) -> None:
        self._saver.start(state, {})
        self._last = state.step

    def wait(self) -> None:
        self._saver.wait_until_copied()
        while not self._store.exists(f"{step_prefix(self._prefix, self._last)}/{MANIFEST}"):
            time.sleep(0.02)

    def close(self) -> None:
        self._saver.close(is_complete=True)


class _TorchAsync(_Nothing):
    """Torch's distributed checkpoint on one rank, in a thread, as its documentation has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._under_way: Future[Any] | None = None
        rendezvous = folder.with_name("rendezvous")
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)

    def start(self, state: TrainState) -> None:
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        found: Any = dcp.async_save(_tensors(state), checkpoint_id=str(self._folder))  # pyright: ignore[reportPrivateImportUsage]
        self._under_way = found

    def wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=4, help="of a turn; one checkpoint in each")
    parser.add_argument("--part-rounds", type=int, default=7, help="of the parts")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens of a row")
    parser.add_argument("--work-dir", type=Path, help="on the disk to measure; default: temporary")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as folder:
        root = Path(folder)
        plan = replace(tiny_plan(root / "store")[0], model=CHECKPOINT_MODEL, num_steps=10**6)
        loop = Loop(plan, seq_len=arguments.seq_len)
        seconds = loop.interval(_Nothing(), 1).step_seconds[0]
        num_bytes = sum(tensor.nbytes for tensor in _tensors(loop.state).values())
        print(
            f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} "
            f"processors, load {os.getloadavg()[0]:.1f}; {num_bytes / 1e6:.0f} MB of state, "
            f"{TOKENS_A_STEP} tokens a step, the first of which took {seconds:.1f} s"
        )
        if arguments.part_rounds:
            _measure_parts(loop.state, plan, root, arguments.part_rounds)
        if arguments.rounds:
            _measure_loops(loop, plan, root, arguments.rounds, arguments.steps)


def _measure_loops(loop: Loop, plan: TrainPlan, root: Path, rounds: int, steps: int) -> None:
    ours = _Ours(plan, root)
    contestants: dict[str, Contestant] = {
        "no checkpoints": _Nothing(),
        "ours": ours,
        "torch DCP async_save": _TorchAsync(root / "dcp"),
    }
    memory: dict[str, float] = {}
    for name, contestant in contestants.items():
        before = _resident_mb()
        # The first save allocates its buffers.
        loop.interval(contestant, 1)
        memory[name] = _resident_mb() - before
    found: dict[str, list[Interval]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        # In another order each time: a machine becomes busier or quieter meanwhile.
        for name in names[number % 3 :] + names[: number % 3]:
            found[name].append(loop.interval(contestants[name], steps))
    ours.close()
    _print_loops(found, memory)


def _print_loops(found: dict[str, list[Interval]], memory: dict[str, float]) -> None:
    bare = [statistics.mean(interval.step_seconds) for interval in found["no checkpoints"]]
    print(
        f"\n{'':22}{'step, median':>14}{'mean':>9}{'over bare':>11}{'lowest':>8}{'highest':>9}"
        f"{'stall a save':>14}{'highest':>9}{'memory':>10}{'left over':>11}"
    )
    for name, intervals in found.items():
        seconds = [second for interval in intervals for second in interval.step_seconds]
        means = [statistics.mean(interval.step_seconds) for interval in intervals]
        share = len(intervals[0].step_seconds) / EVERY_STEPS
        over = [share * (mean / other - 1) for mean, other in zip(means, bare, strict=True)]
        rest = max(interval.rest_seconds for interval in intervals)
        stalls = [1e3 * interval.stall_seconds for interval in intervals]
        print(
            f"{name:22}{statistics.median(seconds):13.3f}s{statistics.mean(seconds):8.3f}s"
            f"{statistics.mean(over):11.1%}{min(over):8.1%}{max(over):9.1%}"
            f"{statistics.median(stalls):11.1f} ms{max(stalls):6.0f} ms{memory[name]:7.0f} MB"
            f"{rest:9.2f} s"
        )


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
    trim = ctypes.CDLL(None).malloc_trim
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            # As in a new process: memory that was used before needs no page faults.
            trim(0)
            started = time.perf_counter()
            result = part()
            elapsed = time.perf_counter() - started
            del result
            if number:  # the first warms up
                seconds[name].append(elapsed)
    print(f"\n{'':22}{'median':>10}{'best':>10}{'ratio':>8}{'lowest':>8}{'highest':>9}")
    for base, name in (("raw write + fsync", "durable save"), ("fresh clone", "verified restore")):
        for row in (base, name):
            pairs = zip(seconds[row], seconds[base], strict=True)
            ratios = [mine / theirs for mine, theirs in pairs]
            print(
                f"{row:22}{statistics.median(seconds[row]):9.3f}s{min(seconds[row]):9.3f}s"
                f"{statistics.median(ratios):8.2f}{min(ratios):8.2f}{max(ratios):9.2f}"
            )


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


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
