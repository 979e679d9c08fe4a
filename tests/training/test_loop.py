"""The loop: normalised over the global batch, the same however cut, no step when not finite."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from tests.training.tiny_run import MODEL, VOCAB, free_port, tiny_plan
from training.config import TrainPlan
from training.data.batches import RankBatch
from training.decoder.model import Decoder
from training.loop import train_step
from training.loss import IGNORE_INDEX, StreamLoss, targets_of
from training.optim import build_optimizer, moments_of, restore_moments

BATCH = 8


@pytest.fixture
def plan(tmp_path: Path) -> TrainPlan:
    return tiny_plan(tmp_path)[0]


def tokens_and_streams() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (BATCH, 17), generator=generator)
    tokens[3, 5:] = 0  # padding: micro batches hold unequal numbers of targets
    return tokens, torch.arange(BATCH) % 2


def part(rows: slice, micro_batch_size: int) -> RankBatch:
    tokens, streams = (tensor[rows] for tensor in tokens_and_streams())
    samples = tuple((int(stream), row) for row, stream in enumerate(streams))
    return RankBatch(
        step=4,
        tokens=tokens.split(micro_batch_size),
        streams=streams.split(micro_batch_size),
        samples=samples,
        checksum=len(tokens),
    )


def new_model(plan: TrainPlan) -> tuple[StreamLoss, torch.optim.AdamW]:
    decoder = Decoder(MODEL, seed=3)
    return StreamLoss(decoder, start_id=0, num_streams=2), build_optimizer(decoder, plan.optimizer)


def decoder_of(loss: StreamLoss) -> Decoder:
    assert isinstance(loss.decoder, Decoder)
    return loss.decoder


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_the_result_does_not_depend_on_how_the_batch_is_cut(
    plan: TrainPlan, micro_batch_size: int
) -> None:
    whole, cut = new_model(plan), new_model(plan)
    nats, targets, norm, *_ = train_step(*whole, part(slice(None), BATCH), plan, lr=0.01)
    nats_cut, targets_cut, norm_cut, *_ = train_step(
        *cut, part(slice(None), micro_batch_size), plan, lr=0.01
    )
    assert targets_cut.tolist() == targets.tolist()
    # The sums of micro batches were float32.
    torch.testing.assert_close(nats_cut.float(), nats.float())
    assert norm_cut == pytest.approx(norm, rel=1e-5)
    # Adam's first step is the sign of a gradient, which noise can turn where it is 0: look at it.
    for ours, theirs in zip(moments(cut), moments(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)


def moments(trained: tuple[StreamLoss, torch.optim.AdamW]) -> list[Tensor]:
    return list(moments_of(decoder_of(trained[0]), trained[1]).values())


def test_the_loss_of_a_step_is_the_mean_over_all_valid_targets(plan: TrainPlan) -> None:
    loss, optimizer = new_model(plan)
    tokens, _ = tokens_and_streams()
    targets = targets_of(tokens, start_id=0, end_id=0)
    from training.decoder.attention import segments_of

    with torch.no_grad():
        logits = decoder_of(loss)(tokens[:, :-1], segments_of(tokens[:, :-1], 0))
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    nats, counts, *_ = train_step(loss, optimizer, part(slice(None), 3), plan, lr=0.01)
    assert int(counts.sum()) == int((targets != IGNORE_INDEX).sum())
    torch.testing.assert_close((nats.sum() / counts.sum()).float(), expected)


def test_each_stream_has_the_nats_of_its_own_rows(plan: TrainPlan) -> None:
    loss, _ = new_model(plan)
    tokens, streams = tokens_and_streams()
    inputs, targets = tokens[:, :-1], targets_of(tokens, start_id=0, end_id=0)
    total, nats = loss(inputs, targets, streams)
    for stream in range(2):
        mine = streams == stream
        alone, _ = loss(inputs[mine], targets[mine], streams[mine])
        torch.testing.assert_close(nats[stream].float(), alone)
    torch.testing.assert_close(nats.sum().float(), total)
    assert not nats.requires_grad


def test_targets_follow_the_framing_of_documents() -> None:
    tokens = torch.tensor([[0, 5, 6, 0, 7, 0, 0, 0]])
    separated = targets_of(tokens, start_id=0, end_id=0)
    assert separated.tolist() == [[5, 6, 0, 7, 0, IGNORE_INDEX, IGNORE_INDEX]]
    tokens = torch.tensor([[1, 5, 2, 1, 7, 2, 1, 1]])
    framed = targets_of(tokens, start_id=1, end_id=2)
    assert framed.tolist() == [[5, 2, IGNORE_INDEX, 7, 2, IGNORE_INDEX, IGNORE_INDEX]]


def test_a_loss_that_is_not_finite_changes_nothing(
    plan: TrainPlan, caplog: pytest.LogCaptureFixture
) -> None:
    loss, optimizer = new_model(plan)
    train_step(loss, optimizer, part(slice(None), BATCH), plan, lr=0.01)
    with torch.no_grad():
        decoder_of(loss).get_parameter("model.norm.weight")[0] = float("nan")
    before = copy.deepcopy(loss.state_dict())
    moments_before = copy.deepcopy(moments_of(decoder_of(loss), optimizer))
    name = plan.mixture.streams[1].name
    outcome = train_step(loss, optimizer, part(slice(None), BATCH), plan, lr=0.01)
    assert not outcome.is_learned
    assert "the loss of step 5 is not finite" in caplog.text
    assert f"{name}#1" in caplog.text
    for key, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)
    for key, value in moments_of(decoder_of(loss), optimizer).items():
        assert torch.equal(value, moments_before[key])


def test_norms_do_not_decay_and_moments_are_restored_exactly(plan: TrainPlan) -> None:
    loss, optimizer = new_model(plan)
    decays = {p.ndim: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.1, 1: 0.0}
    train_step(loss, optimizer, part(slice(None), BATCH), plan, lr=0.01)
    other, other_optimizer = new_model(plan)
    stored = {
        name: value.clone() for name, value in moments_of(decoder_of(loss), optimizer).items()
    }
    restore_moments(decoder_of(other), other_optimizer, stored)
    other.load_state_dict(loss.state_dict())
    for trained in ((loss, optimizer), (other, other_optimizer)):
        train_step(*trained, part(slice(None), BATCH), plan, lr=0.01)
    for ours, theirs in zip(other.parameters(), loss.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    stored.pop("model.norm.weight.step")
    with pytest.raises(ValueError, match=r"model\.norm\.weight\.step is on one side only"):
        restore_moments(decoder_of(other), other_optimizer, stored)


def run_rank(
    rank: int, port: int, job: Callable[[int, TrainPlan, Path], None], plan: TrainPlan, out: Path
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    job(rank, plan, out)
    dist.destroy_process_group()


def two_steps(rank: int, plan: TrainPlan, out: Path) -> None:
    loss, optimizer = new_model(plan)
    model = torch.nn.parallel.DistributedDataParallel(loss)
    rows = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    nats, targets, norm, checksum, *_ = train_step(model, optimizer, part(rows, 3), plan, lr=0.01)
    moments = {
        name: value.tolist() for name, value in moments_of(decoder_of(loss), optimizer).items()
    }
    if rank == 0:
        result = (nats.tolist(), targets.tolist(), norm, checksum, moments)
        out.joinpath("result.txt").write_text(repr(result))
    if rank == 1:
        with torch.no_grad():
            decoder_of(loss).get_parameter("model.norm.weight")[0] = float("nan")
    before = copy.deepcopy(moments_of(decoder_of(loss), optimizer))
    assert not train_step(model, optimizer, part(rows, 3), plan, lr=0.01).is_learned
    for name, value in moments_of(decoder_of(loss), optimizer).items():
        assert torch.equal(value, before[name])
    out.joinpath(f"skipped-{rank}").touch()


def test_two_ranks_do_as_one_and_skip_together(plan: TrainPlan, tmp_path: Path) -> None:
    mp.start_processes(  # type: ignore[no-untyped-call]
        run_rank, (free_port(), two_steps, plan, tmp_path), nprocs=2, start_method="fork"
    )
    result = eval(tmp_path.joinpath("result.txt").read_text(), {"__builtins__": {}})
    loss, optimizer = new_model(replace(plan))
    nats, targets, norm, checksum, *_ = train_step(
        loss, optimizer, part(slice(None), 3), plan, lr=0.01
    )
    assert (result[1], result[3]) == (targets.tolist(), checksum)
    assert result[0] == pytest.approx(nats.tolist(), rel=1e-6)
    assert result[2] == pytest.approx(norm, rel=1e-5)
    for name, value in moments_of(decoder_of(loss), optimizer).items():
        other = torch.tensor(result[4][name])
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-8)
    assert tmp_path.joinpath("skipped-0").exists()
    assert tmp_path.joinpath("skipped-1").exists()
