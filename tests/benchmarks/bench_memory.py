"""The memory estimate beside what a training step takes on a processor.

``python -m tests.benchmarks.bench_memory [--only NAME ...]``. ``measured`` is the most that torch's
allocator had handed out at once in a step, weights and moments included; ``resident`` what the
process grew by at its peak, which has the allocator's slack and the kernels' own memory in it.
"""

# ruff: noqa: T201  a script for people

import argparse
import multiprocessing as mp
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from tests.support.foreign_models import FAMILIES
from tests.support.step_memory import batch_for, plan_for, step_bytes
from training.config import ForeignConfig, ModelConfig, OptimizerConfig
from training.foreign.config import foreign_config_of
from training.loop import train_step
from training.loss import StreamLoss
from training.model_files import build_model
from training.optim import build_optimizer
from training.parallel.config import ParallelConfig
from training.parallel.memory import estimate
from training.parallel.recompute import recompute

_MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One training step."""

    name: str
    model: ModelConfig | ForeignConfig
    rows: int
    seq_len: int
    micro_batches: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    again: Literal["none", "selective", "full"] = "none"


def _decoder(**changes: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "vocab_size": 8192,
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 4,
        "intermediate_size": 688,
    }
    return ModelConfig(**{**fields, **changes})


def _foreign(family: str) -> ForeignConfig:
    """A family of the tests, as wide as the decoder here."""
    sizes: dict[str, int] = {
        **dict.fromkeys(("hidden_size", "n_embd", "word_embed_proj_dim"), 256),
        **dict.fromkeys(("intermediate_size", "ffn_dim"), 1024),
        **dict.fromkeys(("num_hidden_layers", "n_layer"), 6),
        **dict.fromkeys(("max_position_embeddings", "n_positions"), 1024),
        "vocab_size": 8192,
        "head_dim": 64,
    }
    fields = {name: sizes.get(name, value) for name, value in FAMILIES[family].items()}
    from training.foreign.family import all_fields, config_object

    path = Path("config.json")
    made = all_fields(config_object({"model_type": family, **fields}, path))
    packing = "mask" if family in ("opt", "falcon") else "positions"
    known = {**made, "model_type": family, "vocab_size": 8192, "document_packing": packing}
    return foreign_config_of(known, path)


_DEEP = _decoder(num_layers=8, vocab_size=2048)
_QWEN3 = _decoder(qk_norm="head", num_kv_heads=2, head_dim=128)
_OLMO2 = _decoder(qk_norm="width", norm_position="after", tie_embeddings=False)


def _cases() -> Iterator[Case]:
    yield Case("llama", _decoder(), 8, 256)
    yield Case("llama", _decoder(), 8, 256, 2)
    yield Case("llama", _decoder(), 8, 256, 2, "fp32")
    yield Case("llama 8 layers", _DEEP, 4, 1024)
    yield Case("llama 8 layers", _DEEP, 4, 1024, again="selective")
    yield Case("llama 8 layers", _DEEP, 4, 1024, again="full")
    yield Case("llama 8 layers", _DEEP, 4, 512, 1, "fp32", "full")
    yield Case("llama 8 layers", _DEEP, 1, 64)
    yield Case("llama wide", _decoder(hidden_size=768, num_heads=12, num_kv_heads=4), 2, 256)
    yield Case("llama 50k vocabulary", _decoder(vocab_size=50_304, num_layers=2), 2, 256)
    yield Case("mistral", _decoder(sliding_window=64, num_kv_heads=2), 2, 1024)
    yield Case("qwen2", _decoder(qkv_bias=True, tie_embeddings=False), 4, 512, 2)
    yield Case("qwen3", _QWEN3, 4, 512)
    yield Case("qwen3", _QWEN3, 4, 512, 1, "fp32", "selective")
    yield Case("olmo2", _OLMO2, 4, 512, 2, "fp32")
    yield Case("olmo2", _OLMO2, 4, 512, again="full")
    yield Case("gpt2 *", _foreign("gpt2"), 8, 256)
    yield Case("gpt_neox *", _foreign("gpt_neox"), 4, 512)
    yield Case("gemma *", _foreign("gemma"), 4, 512)
    yield Case("opt *", _foreign("opt"), 8, 256, 1, "fp32")
    yield Case("falcon *", _foreign("falcon"), 8, 256, 1, "fp32")
    yield Case("starcoder2 *", _foreign("starcoder2"), 4, 256)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="names that contain one of these")
    only = parser.parse_args().only
    print(f"torch {torch.__version__}; MiB; * by the rule of thumb for models of transformers")
    print(
        "| model | rows x tokens | micro batches | precision | again | estimate | measured ", end=""
    )
    print("| ratio | resident |\n|---|---|---|---|---|---|---|---|---|")
    for case in _cases():
        if any(part in case.name for part in only):
            print(_row(case), flush=True)


def _row(case: Case) -> str:
    plan = plan_for(
        case.model,
        rows=case.rows,
        seq_len=case.seq_len,
        micro_batches=case.micro_batches,
        precision=case.precision,
    )
    parallel = ParallelConfig(strategy="ddp", activation_checkpointing=case.again)
    expected = estimate(case.model, plan, parallel, 1, "cpu").tensors
    measured, resident = _in_process_of_its_own(case)
    cells = (
        *(case.name, f"{case.rows} x {case.seq_len}", case.micro_batches, case.precision),
        *(case.again, f"{expected / _MIB:.1f}", f"{measured / _MIB:.1f}"),
        *(f"{expected / measured:.3f}", f"{resident / _MIB:.0f}"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _in_process_of_its_own(case: Case) -> tuple[int, int]:
    """Whose resident memory nothing else has touched; this one never computes, so it may fork."""
    ours, theirs = mp.Pipe(duplex=False)
    child = mp.get_context("fork").Process(target=_measure, args=(case, theirs))
    child.start()
    theirs.close()
    found = cast("tuple[int, int]", tuple(ours.recv()))
    child.join()
    return found


def _measure(case: Case, to: Connection) -> None:
    plan = plan_for(
        case.model,
        rows=case.rows,
        seq_len=case.seq_len,
        micro_batches=case.micro_batches,
        precision=case.precision,
    )
    before = _resident("VmRSS")
    decoder: Any = build_model(case.model, seed=0)
    blocks = decoder.model.layers if isinstance(case.model, ModelConfig) else ()
    for block in blocks if case.again != "none" else ():
        recompute(block, cast('Literal["selective", "full"]', case.again))
    optimizer = build_optimizer(decoder, OptimizerConfig())
    model: nn.Module = StreamLoss(decoder, start_id=0, num_streams=1)
    batch = batch_for(plan)
    for _ in range(2):
        train_step(model, optimizer, batch, plan, lr=1e-3)
    # Before the profiler, which takes memory too.
    resident = _resident("VmHWM") - before
    to.send((step_bytes(model, optimizer, batch, plan), resident))


def _resident(field: str) -> int:
    """Bytes of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
