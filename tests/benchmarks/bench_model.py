"""Training tokens per second of our decoder and of transformers' Llama of the same size.

Forward, backward and AdamW step in bf16 autocast, interleaved, so that a busy machine slows all
alike. Run it with ``make bench``, or ``python tests/benchmarks/bench_model.py --help``. The medians
of one run mean little on a machine that does other work: read the ratios.
"""

# ruff: noqa: T201  a script for people

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.decoder.attention import segments_of
from training.decoder.model import Decoder, num_parameters
from training.foreign.torchvision_operators import declare_missing_operators

CONFIG = ModelConfig(
    vocab_size=4096,
    hidden_size=192,
    num_layers=4,
    num_heads=6,
    num_kv_heads=2,
    intermediate_size=512,
)
START_ID = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32, help="samples of a step")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens of a sample")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of each contestant")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    contestants = _contestants(_tokens(arguments.rows, arguments.seq_len))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(arguments.rounds + 1):
        for name, step in contestants.items():
            started_at = time.perf_counter()
            step()
            if round_number:  # the first warms up
                seconds[name].append(time.perf_counter() - started_at)

    tokens = arguments.rows * arguments.seq_len
    slowest = statistics.median(seconds["transformers"])
    print(f"{num_parameters(CONFIG):,} parameters, {tokens:,} tokens a step")
    print(f"{'':34}{'tokens/s':>10}{'best':>10}{'ratio':>8}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"{name:34}{tokens / median:10,.0f}{tokens / min(times):10,.0f}{slowest / median:8.2f}"
        )


def _tokens(rows: int, seq_len: int) -> Tensor:
    """Random documents of about 100 tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, CONFIG.vocab_size, (rows, seq_len + 1), generator=generator)
    return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.01, START_ID)


def _contestants(tokens: Tensor) -> dict[str, Callable[[], None]]:
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    segments = segments_of(inputs, START_ID)
    fused, plain = Decoder(CONFIG), Decoder(CONFIG)
    llama = _llama()

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")

    return {
        "transformers": _step(llama, lambda: cross_entropy(llama(inputs, use_cache=False).logits)),
        "ours, logits, segments": _step(plain, lambda: cross_entropy(plain(inputs, segments))),
        "ours, targets, no segments": _step(fused, lambda: fused(inputs, targets=targets)),
        "ours, targets, segments": _step(fused, lambda: fused(inputs, segments, targets=targets)),
    }


def _step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        (loss / 8192).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _llama() -> Any:
    declare_missing_operators()
    transformers = importlib.import_module("transformers")
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            num_key_value_heads=CONFIG.num_kv_heads,
            intermediate_size=CONFIG.intermediate_size,
            rms_norm_eps=CONFIG.rms_norm_eps,
            tie_word_embeddings=CONFIG.tie_embeddings,
        )
    )


if __name__ == "__main__":
    main()
