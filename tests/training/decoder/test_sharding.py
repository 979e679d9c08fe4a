"""Decoders whose parameters are spread over ranks, as FSDP2 makes them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.training.families import config_of, scrambled, tokens_of
from tests.training.tiny_run import free_port
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.decoder.sharding import fill
from training.hub.directory import read_into, write_model


@pytest.mark.parametrize("variant", ["qwen2 window", "olmo2"])
def test_a_sharded_decoder_has_the_weights_and_the_loss_of_a_whole_one(
    variant: str, tmp_path: Path
) -> None:
    # A width that two ranks share unevenly.
    config = config_of(variant, intermediate_size=49)
    model = scrambled(config)
    write_model(tmp_path, config, model.state_dict(), start_id=0, end_id=0, max_shard_bytes=20_000)
    arguments = (free_port(), config, tmp_path)
    mp.start_processes(_check_rank, arguments, nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]


def test_a_whole_parameter_is_filled_in_its_own_precision() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    fill(parameter, torch.full((2, 2), 0.5, dtype=torch.bfloat16))
    assert torch.equal(parameter, torch.full((2, 2), 0.5))
    assert parameter.requires_grad


def _check_rank(rank: int, port: int, config: ModelConfig, directory: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    with torch.device("meta"):
        sharded = Decoder(config)
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    sharded.materialise("cpu", seed=5)
    _check_same_weights(sharded, Decoder(config, seed=5))
    read_into(sharded, directory)
    whole = scrambled(config)
    _check_same_weights(sharded, whole)

    tokens = tokens_of(2, 20)
    loss, expected = sharded(tokens, targets=tokens), whole(tokens, targets=tokens)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for name, parameter in sharded.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad.full_tensor(),  # pyright: ignore[reportAttributeAccessIssue]  a DTensor
            gradients[name],
            rtol=1e-4,
            atol=1e-6,
        )
    dist.destroy_process_group()


def _check_same_weights(sharded: Decoder, whole: Decoder) -> None:
    expected = whole.state_dict()
    assert sharded.state_dict().keys() == expected.keys()
    for name, shard in sharded.state_dict().items():
        assert shard.to_local().numel() < expected[name].numel()
        assert torch.equal(shard.full_tensor(), expected[name])
