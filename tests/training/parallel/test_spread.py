"""However a model is spread over ranks, it has the same weights, gradients and steps."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.families import config_of, scrambled, tokens_of
from tests.training.local_ranks import on_ranks
from tests.training.tiny_run import tiny_plan
from training.config import ModelConfig, TrainPlan
from training.data.batches import RankBatch
from training.decoder.model import Decoder
from training.decoder.sharding import fill, is_in_pieces, local_of, whole_of
from training.guard.weight_check import WeightCheck
from training.loop import train_step
from training.loss import StreamLoss
from training.optim import build_optimizer, moments_of
from training.parallel.clip import clip_gradients
from training.parallel.config import ParallelConfig
from training.parallel.spread import Spread, spread_of

CPU = torch.device("cpu")
NUM_RANKS = 4
WAYS = {
    "fsdp": ParallelConfig(strategy="fsdp"),
    "hsdp": ParallelConfig(strategy="hsdp", shard_workers=2),
    "fsdp x tp": ParallelConfig(strategy="fsdp", tensor_parallel=2),
    "ddp x tp": ParallelConfig(strategy="ddp", tensor_parallel=2),
}


@pytest.fixture
def plan(tmp_path: Path) -> TrainPlan:
    return replace(tiny_plan(tmp_path)[0], model=wide("qwen2 untied"))


def wide(variant: str) -> ModelConfig:
    """A vocabulary that two ranks can share, and layers that four share unevenly."""
    return config_of(variant, vocab_size=98, hidden_size=36, head_dim=10, intermediate_size=50)


def settled(plan: TrainPlan, way: str, num_ranks: int = NUM_RANKS) -> Spread:
    return spread_of(plan, WAYS[way], num_workers=num_ranks, device=CPU)


def in_pieces(config: ModelConfig, spread: Spread, whole: Decoder | None = None) -> Decoder:
    """The decoder of seed 5 as a run makes it, or one with the weights of ``whole``."""
    with torch.device("meta"):
        model = Decoder(config)
    spread.apply(model)
    model.materialise(CPU, seed=5)
    if whole is not None:
        for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            fill(ours, theirs)
    return model


def gradients_of(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Of the summed nats of ``tokens``, some of which have no target."""
    targets = tokens.roll(-1, 1)
    targets[:, -3:] = -100
    loss = StreamLoss(model, start_id=0, num_streams=1)  # type: ignore[arg-type]
    loss(tokens, targets, torch.zeros(len(tokens), dtype=torch.int64))[0].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert None not in gradients.values()
    return {name: whole_of(g) for name, g in gradients.items() if g is not None}


@pytest.mark.parametrize("variant", ["qwen2 untied", "olmo2"])
def test_initial_weights_and_clipped_gradients_are_those_of_a_whole_model(
    plan: TrainPlan, variant: str
) -> None:
    on_ranks(NUM_RANKS, _check_weights_and_gradients, replace(plan, model=wide(variant)))


def _check_weights_and_gradients(rank: int, plan: TrainPlan) -> None:
    assert isinstance(plan.model, ModelConfig)
    tokens = tokens_of(4, 20, vocab_size=98)
    for way in WAYS:
        spread = settled(plan, way)
        model, whole = in_pieces(plan.model, spread), Decoder(plan.model, seed=5)
        expected = whole.state_dict()
        assert model.state_dict().keys() == expected.keys()
        for name, weight in model.state_dict().items():
            assert torch.equal(whole_of(weight), expected[name]), (way, name)
        held = sum(local_of(weight).numel() for weight in model.parameters())
        assert held < 0.6 * sum(weight.numel() for weight in whole.parameters()), way

        parts = spread.grid.data_parallel
        own = tokens.chunk(parts)[spread.grid.data_rank(rank)]
        gradients, wanted = gradients_of(model, own), gradients_of(whole, tokens)
        for name, gradient in wanted.items():
            # Data parallelism averages, here the loss is a sum.
            torch.testing.assert_close(gradients[name] * parts, gradient, rtol=1e-4, atol=1e-5)
        norm = clip_gradients(model.parameters(), 0.5)
        plain = float(nn.utils.clip_grad_norm_(whole.parameters(), 0.5 * parts))
        assert norm * parts == pytest.approx(plain, rel=1e-5), way
        everyone = [torch.zeros(1, dtype=torch.float64) for _ in range(NUM_RANKS)]
        torch.distributed.all_gather(everyone, torch.tensor([norm], dtype=torch.float64))
        assert len({float(other) for other in everyone}) == 1, way
        for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(
                whole_of(ours.grad) * parts, theirs.grad, rtol=1e-4, atol=1e-5
            )


def test_ranks_that_share_every_product_have_the_gradients_of_one(plan: TrainPlan) -> None:
    variants = ("llama biases", "qwen3 biases, window", "mistral", "qwen2 tied", "olmo2")
    on_ranks(2, _check_tensor_parallel, [replace(plan, model=wide(v)) for v in variants])


def _check_tensor_parallel(_rank: int, plans: list[TrainPlan]) -> None:
    spread = settled(plans[0], "ddp x tp", 2)
    for plan in plans:
        _check_products(plan, spread)


def _check_products(plan: TrainPlan, spread: Spread) -> None:
    assert isinstance(plan.model, ModelConfig)
    whole = scrambled(plan.model)
    model = in_pieces(plan.model, spread, whole)
    tokens = tokens_of(3, 20, vocab_size=98)
    tokens[1, 7] = 0
    with torch.autocast("cpu", torch.bfloat16):
        nats = [m.summed_nats(tokens, tokens * 0, tokens)[1] for m in (model, whole)]
    torch.testing.assert_close(*nats, rtol=0.05, atol=0.05)
    gradients, wanted = gradients_of(model, tokens), gradients_of(whole, tokens)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 1}, "tensor_parallel 2 must divide num_kv_heads, found 1"),
        ({"intermediate_size": 49}, "must divide intermediate_size, found 49"),
        ({"vocab_size": 97}, "must divide vocab_size, found 97"),
    ],
)
def test_what_cannot_be_shared_exactly_is_refused_by_the_field(
    plan: TrainPlan, changes: dict[str, object], message: str
) -> None:
    assert isinstance(plan.model, ModelConfig)
    plan = replace(plan, model=replace(plan.model, **changes))
    with pytest.raises(ValueError, match=message):
        spread_of(plan, ParallelConfig(tensor_parallel=2), num_workers=2, device=CPU)


def test_a_gradient_that_is_not_finite_on_one_rank_stops_the_step_on_all(plan: TrainPlan) -> None:
    on_ranks(2, _check_skip, plan)


def _check_skip(rank: int, plan: TrainPlan) -> None:
    assert isinstance(plan.model, ModelConfig)
    model = in_pieces(plan.model, settled(plan, "fsdp", 2))
    loss, optimizer = (
        StreamLoss(model, start_id=0, num_streams=2),
        build_optimizer(model, plan.optimizer),
    )
    tokens, streams = tokens_of(2, 17, vocab_size=98, seed=rank), torch.zeros(2, dtype=torch.int64)
    batch = RankBatch(0, tokens.split(1), streams.split(1), ((0, 0), (0, 1)), 7)
    poison = model.model.layers[1].register_full_backward_hook(
        lambda _module, gradients, _: (
            (gradients[0] * float("nan"), *gradients[1:]) if rank == 1 else None
        )
    )
    before = [local_of(weight).clone() for weight in model.parameters()]
    outcome = train_step(loss, optimizer, batch, plan, lr=0.1)
    assert not outcome.is_learned
    assert math.isnan(outcome.grad_norm)
    assert moments_of(model, optimizer) == {}
    assert all(torch.equal(local_of(w), b) for w, b in zip(model.parameters(), before, strict=True))
    poison.remove()
    outcome = train_step(loss, optimizer, batch, plan, lr=0.1)
    assert outcome.is_learned
    assert all(is_in_pieces(m) for k, m in moments_of(model, optimizer).items() if "exp" in k)


def test_a_flipped_bit_of_a_shard_is_found_by_its_copy_or_by_its_norm(plan: TrainPlan) -> None:
    on_ranks(NUM_RANKS, _check_flips, plan)


def _check_flips(rank: int, plan: TrainPlan) -> None:
    assert isinstance(plan.model, ModelConfig)
    for way, num_copies, bit in (("hsdp", 2, 3), ("fsdp", 1, 30), ("fsdp x tp", 1, 30)):
        spread = settled(plan, way)
        model = in_pieces(plan.model, spread)
        check = WeightCheck(model, plan.optimizer, num_copies=spread.grid.replicas)
        assert spread.grid.replicas == num_copies
        norms, finding = check.look()
        assert finding == ""
        whole = torch.cat([weight.flatten() for weight in Decoder(plan.model, seed=5).parameters()])
        assert check.total_of(norms) == pytest.approx(float(whole.norm().detach()), rel=1e-6)
        if rank == 3:
            local_of(model.model.norm.weight.detach()).view(torch.int32)[0] ^= 1 << bit
        finding = check.look()[1]
        named = "one of ranks 1, 3, which differ" if way == "hsdp" else "rank 3"
        assert finding.startswith(f"the weights of model.norm.weight on {named}"), (way, finding)
