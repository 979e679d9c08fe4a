"""Seconds to score items of tasks: ours and lm-evaluation-harness's Hugging Face backend.

The same exported model, the same tokenizer, the same requests, float32, as many threads; one after
the other in turns, so that a busy machine slows all alike: read the ratios, of processor time where
others work beside. The peer runs with its default batch size of 1 and with the best of several,
which a first round finds; the size that it finds itself (``auto``) is on processors the largest
allowed, 64, as memory never runs out there. Log-likelihoods, choices and texts are compared first.

Run it with ``python -m tests.benchmarks.bench_items --lm-eval-python PYTHON``: lm-eval needs other
versions of some packages than this project, so give the interpreter of an environment of its own.
"""

# ruff: noqa: T201  a script for people

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from tests.benchmarks.item_tasks import Task, made_tasks, tasks_of_files
from tests.benchmarks.workload import CHECKPOINT_MODEL
from training.causal_model import CausalModel
from training.decoder.model import Decoder, num_parameters
from training.items.continuations import score_windows
from training.items.score_items import BATCH_TOKENS, chosen_of, score_items
from training.items.windows import continuations_of, windows_of
from training.model_files import load_model, write_directory
from training.tokenizer import Tokenizer
from training.tokenizer_training import train_tokenizer

_BATCH_SIZES = (1, 8, 32)
Timed = tuple[float, float]
"""Wall and processor seconds."""
_WINDOW = CHECKPOINT_MODEL.max_position_embeddings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm-eval-python", help="an interpreter that has lm-eval; else only ours")
    parser.add_argument("--evals", type=Path, help="folder of hellaswag_val1k.jsonl and others")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of items")
    parser.add_argument("--only", nargs="*", help="names of tasks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scale, evals = arguments.scale, arguments.evals
    tasks = made_tasks(scale) if evals is None else tasks_of_files(evals, scale)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, model = _model_in(Path(folder), tasks)
        parameters = num_parameters(CHECKPOINT_MODEL)
        print(f"{_machine()}, {arguments.threads} threads, {parameters:,} parameters")
        with _Peer(arguments.lm_eval_python, folder, arguments.threads) as peer:
            for task in tasks:
                if not arguments.only or task.name in arguments.only:
                    _race(task, model, tokenizer, peer, rounds=arguments.rounds)


def _model_in(directory: Path, tasks: Sequence[Task]) -> tuple[Tokenizer, CausalModel]:
    texts = [
        text for task in tasks for item in task.items for text in (item.context, *item.choices)
    ]
    tokenizer = train_tokenizer(texts, directory, vocab_size=CHECKPOINT_MODEL.vocab_size)
    ids = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id}
    write_directory(directory, Decoder(CHECKPOINT_MODEL, seed=0), **ids)
    return tokenizer, load_model(directory)


class _Peer:
    """lm-evaluation-harness in a process of its own."""

    def __init__(self, python: str | None, directory: str, threads: int) -> None:
        self.is_there = python is not None
        command = [python or "true", "-m", "tests.benchmarks.peer_lm_eval", directory, str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, task: Task, batch_size: int) -> tuple[Timed, list[Any]]:
        """How long it took, and what the backend returned."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"function": task.function, "requests": task.requests, "batch_size": batch_size}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["results"]


def _race(
    task: Task, model: CausalModel, tokenizer: Tokenizer, peer: _Peer, *, rounds: int
) -> None:
    print(f"\n{task.name}: {len(task.items)} items, {len(task.requests)} requests")
    if not peer.is_there:
        times = [_ours(task, model, tokenizer)[0] for _ in range(rounds)]
        print(f"    ours {statistics.median(times):.2f} s")
        return
    first = {size: peer.ask(task, size) for size in _BATCH_SIZES}
    best = min(_BATCH_SIZES, key=lambda size: first[size][0][1])
    _agree(task, model, tokenizer, first[best][1])
    theirs: dict[int, list[Timed]] = {size: [] for size in sorted({1, best})}
    ours: list[Timed] = []
    for _ in range(rounds):
        ours.append(_ours(task, model, tokenizer))
        for size, times in theirs.items():
            times.append(peer.ask(task, size)[0])
    target = "" if task.target is None else f", target {task.target:g}"
    for clock, name in enumerate(("wall", "processor")):
        own = [times[clock] for times in ours]
        print(f"    {name}: ours {statistics.median(own):.2f} s{target}")
        for size, measured in theirs.items():
            other = [times[clock] for times in measured]
            ratios = [a / b for a, b in zip(other, own, strict=True)]
            overall = statistics.median(other) / statistics.median(own)
            print(
                f"        batch size {size:2}: {statistics.median(other):6.2f} s, {overall:5.2f}x, "
                f"worst {min(ratios):.2f}, best {max(ratios):.2f}",
                flush=True,
            )


def _ours(task: Task, model: CausalModel, tokenizer: Tokenizer) -> Timed:
    started_at, processor = time.perf_counter(), time.process_time()
    score_items(model, tokenizer, task.items, window_tokens=_WINDOW)
    return time.perf_counter() - started_at, time.process_time() - processor


def _agree(task: Task, model: CausalModel, tokenizer: Tokenizer, theirs: list[Any]) -> None:
    """Print by how much the numbers differ."""
    if task.function == "generate_until":
        scores = score_items(model, tokenizer, task.items, window_tokens=_WINDOW)
        same = sum(score.answer == text for score, text in zip(scores, theirs, strict=True))
        print(f"    the same text: {same} of {len(theirs)}")
        return
    asked = [continuations_of(item) for item in task.items]
    windows = windows_of([c for each in asked for c in each], tokenizer, window_tokens=_WINDOW)
    batch_tokens = BATCH_TOKENS["cpu"]
    found = score_windows(model, windows, batch_tokens=batch_tokens, precision="fp32")
    rolling = task.function == "loglikelihood_rolling"
    expected = [-answer if rolling else -answer[0] for answer in theirs]
    nats = [score.nats for score in found]
    absolute = [abs(own - other) for own, other in zip(nats, expected, strict=True)]
    relative = [each / own for each, own in zip(absolute, nats, strict=True)]
    print(f"    log-likelihoods differ by at most {max(absolute):.1e}, of them {max(relative):.1e}")
    if not rolling:
        pairs = zip(found, theirs, strict=True)
        print(f"    as greedy: {sum(own.is_greedy == other[1] for own, other in pairs)}")
    if len(asked[0]) > 1:
        first = 0
        same = 0
        for item, each in zip(task.items, asked, strict=True):
            part = slice(first, first + len(each))
            same += chosen_of(item, nats[part]) == chosen_of(item, expected[part])
            first += len(each)
        print(f"    the same choice: {same} of {len(task.items)}")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores, torch {torch.__version__}, {platform.python_version()}"


if __name__ == "__main__":
    main()
