"""What judging costs beside training: tokens scored a night over many nights, seconds a token.

Every night a refresh holds out another slice of every domain, of synthetic sizes; candidate and
champion are scored on what ``tasks.scoring.panel`` chooses, less what is on record of the champion.
Training is forward, backward and AdamW in bf16, as an update does it; scoring is in float32, as a
check does it, both interleaved, so that a busy machine slows both alike. Run it with
``python tests/benchmarks/bench_judging_cost.py --help``.
"""

# ruff: noqa: T201  a script for people

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tasks.judge.verdict import CheckConfig
from tasks.scoring.panel import Panel
from tasks.scoring.scores import read_record, write_part
from tests.benchmarks.workload import CHECKPOINT_MODEL, MODEL
from tests.support.holdout_nights import LAYOUT, Nights
from training.config import ModelConfig
from training.data.holdout import HoldoutDocument
from training.data.holdout_folder import HoldoutFolder
from training.decoder.attention import segments_of
from training.decoder.model import Decoder, num_parameters
from training.score_units import Framed, score_units

SHOWN = (1, 2, 3, 5, 10, 20, 30)
MODELS = {"5M": MODEL, "54M": CHECKPOINT_MODEL}
SHARE = 0.05
"""Of the training, that judging may take."""
_BATCH_SAMPLES = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--domains", type=int, default=3)
    parser.add_argument("--clusters", type=int, default=100, help="held out of a domain a night")
    parser.add_argument("--tokens", type=int, default=2000, help="of a cluster, on average")
    parser.add_argument("--model", choices=sorted(MODELS), action="append")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6, help="timed steps, and units, of each")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dearest = _print_nights(arguments)
    print(
        f"\n{'model':>8}{'tokens of a step':>18}{'trained/s':>11}{'scored/s':>10}{'ratio':>7}",
        end="",
    )
    print(f"{'tokens of an update from which judging takes 5%':>50}")
    for name in arguments.model or ["5M"]:
        trained, scored = _speeds(MODELS[name], arguments)
        ratio = trained / scored
        print(
            f"{name:>8}{_BATCH_SAMPLES * arguments.seq_len:>18,}{trained:>11,.0f}{scored:>10,.0f}"
            f"{ratio:>7.2f}{dearest * ratio / SHARE:>50,.0f}"
        )
        print(f"         {num_parameters(MODELS[name]):,} parameters, {arguments.threads} threads")


def _print_nights(arguments: argparse.Namespace) -> int:
    """Tokens that both models score on the dearest night."""
    config = CheckConfig()
    print(
        f"{arguments.domains} domains, {arguments.clusters} clusters of {arguments.tokens:,} "
        f"tokens each a night; at most {config.judged_tokens:,} of old and of new text"
    )
    print(f"{'night':>6}{'slices':>8}{'guards':>8}{'old tokens':>12}{'new tokens':>12}", end="")
    print(f"{'champion lacks':>16}{'scored':>12}{'largest effect':>16}{'choosing, s':>13}", end="")
    print(f"{'records, s':>12}")
    known: set[str] = set()
    dearest = 0
    with tempfile.TemporaryDirectory() as folder:
        nights = Nights(
            Path(folder),
            domains=tuple(f"domain{number}" for number in range(arguments.domains)),
            clusters=arguments.clusters,
            tokens=(arguments.tokens // 5, arguments.tokens * 9 // 5),
        )
        for night in range(1, arguments.nights + 1):
            nights.refresh()
            started_at = time.perf_counter()
            panel = nights.panel(config)
            seconds = time.perf_counter() - started_at
            records = _read_and_grow(nights, night, panel)
            sizes = _sizes(panel)
            lacks = sum(size for unit, size in sizes.items() if unit not in known)
            # Tonight's candidate is tomorrow's champion.
            known = set(sizes)
            scored = panel.tokens + (lacks if night > 1 else 0)
            dearest = max(dearest, scored)
            if night in SHOWN or night == arguments.nights:
                _print_night(night, panel, lacks if night > 1 else 0, scored, seconds, records)
    return dearest


def _read_and_grow(nights: Nights, night: int, panel: Panel) -> float:
    """Read the scores of all earlier versions, in seconds; then put tonight's on record."""
    started_at = time.perf_counter()
    for earlier in range(1, night):
        record = read_record(nights.store, LAYOUT, f"{earlier:064x}"[::-1])
        for item in panel.slices:
            if record.has(item.units, item.depth):
                record.scores(item.units, item.depth)
    seconds = time.perf_counter() - started_at
    scored = {
        item.units.id_of(index): [1.0] * len(unit.documents)
        for item in panel.slices
        for index, unit in enumerate(item.scored)
    }
    write_part(nights.store, LAYOUT, f"{night:064x}"[::-1], scored)
    return seconds


def _print_night(
    night: int, panel: Panel, lacks: int, scored: int, seconds: float, records: float
) -> None:
    old = sum(item.tokens for item in panel.slices if item.role == "old")
    effects = [guard.detectable or float("inf") for guard in panel.guards]
    largest = f"{max(effects):.3f}" if effects else "-"
    slices = sum(len(guard.slices) for guard in panel.guards)
    print(
        f"{night:>6}{slices:>8}{len(panel.guards):>8}{old:>12,}{panel.tokens - old:>12,}"
        f"{lacks:>16,}{scored:>12,}{largest:>16}{seconds:>13.2f}{records:>12.2f}"
    )


def _sizes(panel: Panel) -> dict[str, int]:
    return {
        item.units.id_of(index): unit.tokens
        for item in panel.slices
        for index, unit in enumerate(item.scored)
    }


def _speeds(config: ModelConfig, arguments: argparse.Namespace) -> tuple[float, float]:
    """Tokens a second of training and of scoring, medians."""
    model = Decoder(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    random = np.random.default_rng(0)
    shape = (_BATCH_SAMPLES, arguments.seq_len + 1)
    rows = torch.from_numpy(random.integers(1, config.vocab_size, shape))
    units = [_unit(random, config, arguments) for _ in range(arguments.threads)]
    tokens = sum(len(row.tokens) - 1 for _, documents in units for row in documents)
    trained: list[float] = []
    scored: list[float] = []
    for round_number in range(arguments.rounds + 1):
        started_at = time.perf_counter()
        _train_step(model, optimizer, rows)
        between = time.perf_counter()
        score_units(model, units, num_threads=arguments.threads)
        if round_number:  # the first warms up
            trained.append(_BATCH_SAMPLES * arguments.seq_len / (between - started_at))
            scored.append(tokens / (time.perf_counter() - between))
    return statistics.median(trained), statistics.median(scored)


def _train_step(model: Decoder, optimizer: torch.optim.Optimizer, rows: torch.Tensor) -> None:
    inputs, targets = rows[:, :-1], rows[:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        nats, _ = model.summed_nats(inputs, segments_of(inputs, 0), targets)
    (nats / targets.numel()).backward()
    optimizer.step()
    optimizer.zero_grad()


def _unit(
    random: np.random.Generator, config: ModelConfig, arguments: argparse.Namespace
) -> Framed:
    """About 8,192 tokens in documents of uneven length."""
    folder = HoldoutFolder(
        prefix="",
        folder="",
        files=(),
        token_dtype="uint16",
        start_id=0,
        end_id=0,
        seq_len=arguments.seq_len,
    )
    lengths = random.integers(100, 1500, 10)
    documents = [
        HoldoutDocument(
            f"d{n}",
            f"c{n}",
            np.array([0, *random.integers(1, config.vocab_size, length), 0], np.uint16),
            9,
        )
        for n, length in enumerate(lengths)
    ]
    return folder, documents


if __name__ == "__main__":
    main()
