"""Training throughput on one GPU: tokens/s, MFU, data wait, with and without document masks.

Runs the engine's own step (``training.loop.train``) on made-up batches, and needs torch, numpy and
safetensors alone: ``python -m tests.benchmarks.gpu [--models 124M 410M 1.3B] [--compile]``. Where
transformers can be imported, its Llama of the same size takes turns with ours.
"""

# ruff: noqa: T201  a script for people

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import Mixture, OptimizerConfig, Schedule, Stream, TrainPlan
from training.data.batches import RankBatch
from training.decoder.config import ModelConfig
from training.decoder.model import Decoder, flops_per_token, num_parameters
from training.foreign.torchvision_operators import declare_missing_operators
from training.loop import StepResult, train
from training.loss import StreamLoss
from training.optim import build_optimizer
from training.parallel.config import ParallelConfig
from training.parallel.memory import estimate

START_ID = 0
VOCAB = 50_304
_MATMUL_SIZE = 8192


@dataclass(frozen=True)
class Workload:
    """A model, and how much of it a step takes."""

    model: ModelConfig
    seq_len: int
    micro_batch_size: int
    grad_accum_steps: int


def _model(layers: int, width: int, heads: int, seq_len: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        # SwiGLU has three matrices where GPT-2 has two of four times the width.
        intermediate_size=256 * round(width * 8 / 3 / 256),
        max_position_embeddings=seq_len,
    )


WORKLOADS = {
    "5M": Workload(_model(2, 64, 4, 128), 128, 4, 2),
    "124M": Workload(_model(12, 768, 12, 1024), 1024, 32, 1),
    "410M": Workload(_model(24, 1024, 16, 2048), 2048, 16, 1),
    "1.3B": Workload(_model(24, 2048, 16, 2048), 2048, 8, 1),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=["124M", "410M", "1.3B"])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--document-tokens", type=int, default=256, help="mean length, with masks")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    peak = _matmul_flops_per_second(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(f"{name}, torch {torch.__version__}; a bf16 matrix product: {peak / 1e12:.1f} TFLOP/s")
    print(
        f"{'':34}{'tokens/s':>10}{'of matmul':>10}{'data wait':>10}{'memory':>10}{'estimate':>10}"
    )
    for model in arguments.models:
        _measure(model, arguments, device, peak)


def _measure(name: str, arguments: argparse.Namespace, device: torch.device, peak: float) -> None:
    workload = WORKLOADS[name]
    contestants: dict[str, Callable[[], float]] = {
        f"{name} ours, one document a row": _Ours(workload, None, arguments, device),
        f"{name} ours, masked documents": _Ours(
            workload, arguments.document_tokens, arguments, device
        ),
    }
    if importlib.util.find_spec("transformers") is not None:
        contestants[f"{name} transformers"] = _Theirs(workload, arguments, device)
    flops = flops_per_token(workload.model, workload.seq_len)
    tokens_per_second: dict[str, list[float]] = {title: [] for title in contestants}
    for turn in range(arguments.turns + 1):
        for title, take_turn in contestants.items():
            measured = take_turn()
            if turn:  # the first warms up and compiles
                tokens_per_second[title].append(measured)
    print(f"{num_parameters(workload.model):,} parameters, T = {workload.seq_len}")
    for title, found in tokens_per_second.items():
        contestant: Any = contestants[title]
        median = statistics.median(found)
        wait = f"{contestant.wait_fraction:.3%}" if hasattr(contestant, "wait_fraction") else ""
        print(
            f"{title:34}{median:10,.0f}{median * flops / peak:10.1%}{wait:>10}"
            f"{contestant.peak_bytes / 2**30:9.1f}G{_estimated(contestant):>10}"
        )


def _estimated(contestant: Any) -> str:
    """What the memory estimate says of the peak beside it; "" of what is not ours."""
    if not isinstance(contestant, _Ours):
        return ""
    plan = contestant.plan
    alone = ParallelConfig(strategy="ddp", activation_checkpointing="none")
    return f"{estimate(plan.model, plan, alone, 1, 'cuda').tensors / 2**30:9.1f}G"


class _Ours:
    """The engine's loop over batches that are there already."""

    def __init__(
        self,
        workload: Workload,
        document_tokens: int | None,
        arguments: argparse.Namespace,
        device: torch.device,
    ) -> None:
        self.plan, self._steps, self._device = _plan(workload), arguments.steps, device
        decoder = Decoder(workload.model).to(device)
        self._model: nn.Module = StreamLoss(decoder, start_id=START_ID, num_streams=1)
        if arguments.compile:
            self._model.compile()
        self._optimizer = build_optimizer(decoder, OptimizerConfig())
        self._tokens = _tokens(workload, document_tokens)
        self.wait_fraction = 0.0
        self.peak_bytes = 0

    def __call__(self) -> float:
        """Tokens a second of one turn."""
        results: list[StepResult] = []
        _reset_memory(self._device)
        train(self._model, self._optimizer, self._batches(), self.plan, results.append)
        seconds = [result.step_seconds for result in results]
        self.wait_fraction = sum(result.wait_seconds for result in results) / sum(seconds)
        self.peak_bytes = _peak_memory(self._device)
        return self.plan.global_batch_tokens / statistics.median(seconds)

    def _batches(self) -> Iterator[RankBatch]:
        streams = torch.zeros(len(self._tokens), dtype=torch.int64)
        size = self.plan.micro_batch_size
        for step in range(self._steps):
            yield RankBatch(
                step=step,
                tokens=self._tokens.split(size),
                streams=streams.split(size),
                samples=tuple((0, row) for row in range(len(self._tokens))),
                checksum=0,
            )


class _Theirs:
    """A loop as the documentation of transformers writes it, fused AdamW, without masks."""

    def __init__(
        self, workload: Workload, arguments: argparse.Namespace, device: torch.device
    ) -> None:
        declare_missing_operators()
        transformers: Any = importlib.import_module("transformers")
        config = workload.model
        self._model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                intermediate_size=config.intermediate_size,
                tie_word_embeddings=config.tie_embeddings,
                use_cache=False,
            )
        ).to(device)
        if arguments.compile:
            self._model.compile()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)
        self._micro_batches = _tokens(workload, None).to(device).split(workload.micro_batch_size)
        self._steps, self._device = arguments.steps, device
        self.peak_bytes = 0

    def __call__(self) -> float:
        """Tokens a second of one turn."""
        _reset_memory(self._device)
        seconds: list[float] = []
        for _ in range(self._steps):
            started = time.perf_counter()
            losses: list[Tensor] = []
            for tokens in self._micro_batches:
                inputs = tokens[:, :-1]
                with torch.autocast(self._device.type, torch.bfloat16):
                    loss: Tensor = self._model(input_ids=inputs, labels=inputs).loss
                (loss / len(self._micro_batches)).backward()
                losses.append(loss.detach())
            nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            # Reading one number back waits for the device, as a logged loss does.
            float(losses[-1])
            seconds.append(time.perf_counter() - started)
        self.peak_bytes = _peak_memory(self._device)
        tokens = sum(micro_batch[:, :-1].numel() for micro_batch in self._micro_batches)
        return tokens / statistics.median(seconds)


def _tokens(workload: Workload, document_tokens: int | None) -> Tensor:
    """Random rows, ``int64[B, T + 1]``; documents of about so many tokens, or one a row."""
    generator = torch.Generator().manual_seed(0)
    shape = (workload.micro_batch_size * workload.grad_accum_steps, workload.seq_len + 1)
    tokens = torch.randint(1, VOCAB, shape, generator=generator)
    tokens[:, 0] = START_ID
    if document_tokens is None:
        return tokens
    opens = torch.rand(shape, generator=generator) < 1 / document_tokens
    return tokens.masked_fill(opens, START_ID)


def _plan(workload: Workload) -> TrainPlan:
    samples = workload.micro_batch_size * workload.grad_accum_steps
    schedule = Schedule(
        kind="constant",
        eta_max=1e-4,
        eta_min=1e-4,
        eta_const=1e-4,
        warmup_tokens=0,
        cooldown_tokens=0,
        decay_tokens=0,
        total_tokens=2**40,
    )
    stream = Stream(
        snapshot="made",
        domain="made",
        prefix="made",
        parts=1,
        samples=samples,
        available=samples,
        is_replay=False,
    )
    return TrainPlan(
        lineage="gpu",
        update="u1",
        checkpoint_prefix="unused",
        initial=None,
        model=workload.model,
        start_id=START_ID,
        end_id=START_ID,
        mixture=Mixture(streams=(stream,), seed=0),
        schedule=schedule,
        optimizer=OptimizerConfig(),
        seq_len=workload.seq_len,
        global_batch_samples=samples,
        micro_batch_size=workload.micro_batch_size,
        num_steps=2**20,
        precision="bf16",
        seed=0,
        checkpoint_every_steps=2**20,
        trunk_step=2**20,
    )


def _matmul_flops_per_second(device: torch.device) -> float:
    """What a large bf16 product reaches here, the ceiling of everything below."""
    size = _MATMUL_SIZE if device.type == "cuda" else _MATMUL_SIZE // 8
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        # Reading one number back waits for the device.
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
