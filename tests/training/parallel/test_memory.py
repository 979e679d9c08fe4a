"""The memory estimate: its arithmetic, and that it is what the allocator hands out."""

from dataclasses import replace
from typing import Any, Literal, cast

import pytest
import torch

from tests.support.step_memory import batch_for, plan_for, step_bytes
from training.config import ForeignConfig, ModelConfig, OptimizerConfig
from training.decoder.model import Decoder, num_parameters
from training.loss import StreamLoss
from training.optim import build_optimizer
from training.parallel.choose import choose
from training.parallel.config import ParallelConfig
from training.parallel.memory import GIB, MemoryEstimate, estimate
from training.parallel.recompute import recompute

ALONE = ParallelConfig(strategy="ddp", activation_checkpointing="none")
LLAMA = ModelConfig(
    vocab_size=2048,
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=176,
)
QWEN3 = replace(LLAMA, qk_norm="head", head_dim=32, tie_embeddings=False)
OLMO2 = replace(LLAMA, qk_norm="width", norm_position="after", num_kv_heads=4)
LARGE = replace(
    LLAMA,
    hidden_size=2048,
    num_layers=24,
    num_heads=16,
    num_kv_heads=16,
    intermediate_size=5632,
    vocab_size=50_304,
)
GPT2 = ForeignConfig(
    model_type="gpt2",
    vocab_size=100,
    max_position_embeddings=10,
    packing="mask",
    fields='{"n_embd": 8, "n_layer": 2, "n_head": 2, "tie_word_embeddings": true}',
)


def of(
    model: ModelConfig | ForeignConfig = LLAMA,
    parallel: ParallelConfig = ALONE,
    *,
    world_size: int = 1,
    **plan: Any,
) -> MemoryEstimate:
    settings: dict[str, Any] = {"rows": 2, "seq_len": 64, "num_workers": world_size, **plan}
    return estimate(model, plan_for(model, **settings), parallel, world_size, "cpu")


@pytest.mark.parametrize("model", [LLAMA, QWEN3, OLMO2, replace(LLAMA, qkv_bias=True)])
def test_weights_and_moments_are_those_of_the_built_decoder(model: ModelConfig) -> None:
    found = of(model)

    assert found.weights == 4 * num_parameters(model)
    assert found.moments == 8 * num_parameters(model)


def test_the_weights_of_a_foreign_model_follow_from_its_configuration() -> None:
    # Two layers of 4 C^2 (attention), 8 C^2 (feed-forward) and 4 C (norms), the table, positions.
    numbers = 2 * (12 * 8 * 8 + 4 * 8) + 100 * 8 + 10 * 8 + 8

    assert of(GPT2).weights == 4 * numbers
    assert of(GPT2).is_rough


def test_a_foreign_model_of_unknown_width_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="none of hidden_size, n_embd, d_model"):
        of(replace(GPT2, fields='{"n_layer": 2}'))


@pytest.mark.parametrize("has_tiles", [True, False])
@pytest.mark.parametrize(
    ("model", "rows", "seq_len", "micro_batches", "precision", "again"),
    [
        (LLAMA, 4, 128, 1, "bf16", "none"),
        (LLAMA, 4, 128, 2, "fp32", "none"),
        (LLAMA, 4, 256, 1, "bf16", "full"),
        (LLAMA, 4, 256, 1, "fp32", "selective"),
        (QWEN3, 4, 128, 1, "bf16", "none"),
        (OLMO2, 2, 128, 2, "bf16", "none"),
        (replace(LLAMA, sliding_window=16), 2, 256, 1, "fp32", "none"),
    ],
)
def test_the_estimate_is_within_a_tenth_of_what_a_step_takes(
    model: ModelConfig,
    rows: int,
    seq_len: int,
    micro_batches: int,
    precision: str,
    again: str,
    has_tiles: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a processor with and without AMX: bf16 is slow to compute without, but no different."""
    for user in ("parallel.activations", "decoder.attention", "decoder.tiled_attention"):
        monkeypatch.setattr(f"training.{user}.has_tiles", lambda: has_tiles)
    plan = plan_for(
        model,
        rows=rows,
        seq_len=seq_len,
        micro_batches=micro_batches,
        precision=cast('Literal["bf16", "fp32"]', precision),
    )
    parallel = replace(ALONE, activation_checkpointing=again)
    decoder = Decoder(model)
    if again != "none":
        for layer in decoder.model.layers:
            recompute(layer, cast('Literal["selective", "full"]', again))
    optimizer = build_optimizer(decoder, OptimizerConfig())
    torch.set_num_threads(1)

    measured = step_bytes(
        StreamLoss(decoder, start_id=0, num_streams=1), optimizer, batch_for(plan), plan
    )

    assert estimate(model, plan, parallel, 1, "cpu").tensors == pytest.approx(measured, rel=0.1)


def test_sharding_divides_what_ddp_repeats() -> None:
    whole = of(LARGE, ALONE, world_size=8)
    sharded = of(LARGE, replace(ALONE, strategy="fsdp"), world_size=8)
    pairs = of(LARGE, replace(ALONE, strategy="hsdp", shard_workers=2), world_size=8)

    assert sharded.weights == whole.weights // 8
    assert sharded.moments == 2 * sharded.weights
    assert pairs.weights == whole.weights // 2
    assert sharded.total < pairs.total < whole.total


def test_less_is_kept_the_more_is_computed_again() -> None:
    kinds = ("none", "selective", "full")
    none, selective, full = (
        of(LARGE, replace(ALONE, activation_checkpointing=kind), seq_len=1024).total
        for kind in kinds
    )

    assert full < selective < none


def test_tensor_parallelism_divides_weights_and_heads() -> None:
    long: dict[str, Any] = {"rows": 4, "seq_len": 1024}
    whole = of(LARGE, **long)
    halves = of(
        LARGE, replace(ALONE, tensor_parallel=2), world_size=2, **{**long, "num_workers": 1}
    )

    assert halves.weights == whole.weights // 2
    assert halves.activations < whole.activations


def test_what_is_not_settled_cannot_be_estimated() -> None:
    with pytest.raises(ValueError, match="found auto and none: choose first"):
        of(LLAMA, ParallelConfig(activation_checkpointing="none"))


def test_the_line_for_people_names_parts_that_add_up() -> None:
    found = of(LARGE)
    line = found.describe()

    parts = [float(part.split()[-1]) for part in line.split("(")[1].rstrip(")").split(",")]
    assert sum(parts) == pytest.approx(found.total / GIB, abs=0.05)
    assert "weights 4." in line


AUTO = ParallelConfig()


def _chosen(bytes_free: float, *, world_size: int = 8, parallel: ParallelConfig = AUTO) -> str:
    plan = plan_for(LARGE, rows=8, seq_len=2048, num_workers=world_size)
    found = choose(plan, parallel, world_size, int(bytes_free), device_type="cuda")
    return f"{found.strategy} {found.activation_checkpointing}"


def test_auto_takes_the_cheapest_that_fits() -> None:
    chosen = [_chosen(free * GIB) for free in (200, 80, 50, 35, 20)]

    assert chosen[0] == "ddp none"
    assert chosen[-1] == "fsdp full"
    order = ["ddp none", "ddp selective", "fsdp none", "fsdp selective", "fsdp full"]
    assert chosen == sorted(chosen, key=order.index)


def test_one_worker_is_not_sharded() -> None:
    assert _chosen(200 * GIB, world_size=1) == "ddp none"
    assert _chosen(40 * GIB, world_size=1).startswith("ddp")


def test_what_is_set_is_kept_and_never_refused() -> None:
    settled = ParallelConfig(strategy="ddp", activation_checkpointing="none")

    assert _chosen(1, parallel=settled) == "ddp none"
    assert _chosen(35 * GIB, parallel=replace(AUTO, strategy="ddp")).startswith("ddp")
    assert _chosen(200 * GIB, parallel=replace(AUTO, activation_checkpointing="full")) == "ddp full"


def test_the_refusal_says_what_is_needed_and_which_micro_batch_would_fit() -> None:
    with pytest.raises(ValueError, match=r"lower recipe\.micro_batch_size from 8 to"):
        _chosen(12 * GIB)
    with pytest.raises(ValueError, match=r"has 1\.00 GiB: take more workers"):
        _chosen(1 * GIB)
