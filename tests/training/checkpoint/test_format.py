"""What lies in a checkpoint: verified byte by byte, readable for years, and never a program."""

import json
import pickle
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.errors import CorruptError
from storage.local_objects import LocalObjects
from storage.manifest import digest_file, publish
from tests.training.tiny_run import MODEL, tiny_plan
from training.checkpoint.index import FORMAT, latest, read_manifest, step_prefix
from training.checkpoint.pieces import TensorFile, open_header
from training.checkpoint.restore import LoadedState, load_state
from training.checkpoint.state import TrainState, save
from training.checkpoint.tensors import read_tensors, write_tensors
from training.config import TrainPlan
from training.launch import run_training
from training.model_files import build_model
from training.optim import build_optimizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def state_at(plan: TrainPlan, step: int) -> TrainState:
    model = cast("nn.Module", build_model(plan.model, seed=plan.seed))
    state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(step):
        state.optimizer.step()
    state.step = step
    return state


def test_a_flipped_bit_is_refused_by_file_and_tensor_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = LocalObjects(tmp_path)
    with mock.patch("training.checkpoint.tensors.PIECE_BYTES", 500):
        before, newest = (
            save(store, plan, state_at(plan, step), {}, tmp_path / "work") for step in (3, 6)
        )
    files = (read_manifest(store, newest).weights, read_manifest(store, newest).moments)
    places: list[tuple[str, int, str]] = []
    for file in files:
        key = f"{newest}/{file.name}"
        slots, _ = open_header(
            file, key, lambda start, n, k=key: store.get(k, start=start, length=n)
        )
        places += [(key, at, "was altered in the header") for at in (0, 7, 8, 100)]
        for slot in slots:
            what = f"was altered in tensor {slot.name}:"
            places += [(key, at, what) for at in (slot.start, slot.stop - 1)]
    for name in ("state.json", "manifest.json"):
        size = len(store.get(f"{newest}/{name}"))
        places += [(f"{newest}/{name}", at, "") for at in random.Random(1).sample(range(size), 20)]
    assert len(places) > 100
    for key, at, what in places:
        caplog.clear()
        whole = store.get(key)
        store.put(key, whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(CorruptError, match=f"{key}.*{what}"):
            load_state(store, newest, tmp_path / "work")
        if at % 5 == 0:
            assert latest(store, plan.checkpoint_prefix) == before
            assert f"checkpoint {newest} cannot be used: {key}" in caplog.text
        store.put(key, whole)
    assert latest(store, plan.checkpoint_prefix) == newest


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6))
def test_what_is_written_is_plain_safetensors_and_is_read_back_in_bits(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[torch.dtype, Any]]
) -> None:
    tensors = {
        name: torch.randint(0, 2, shape).to(dtype)
        for name, (dtype, shape) in kinds.items()
        if name != "__metadata__"
    }
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    with mock.patch("training.checkpoint.tensors.PIECE_BYTES", 64):
        file = write_tensors(path, tensors)
    assert file.size == path.stat().st_size
    for found in (load_file(path), read_tensors(path, file, "x")):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)


@settings(max_examples=150, deadline=None)
@given(
    bits=st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True),
    version=st.sampled_from([2, 3, 4]),
)
def test_bits_that_are_flipped_anywhere_are_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, bits: list[int], version: int
) -> None:
    """Also where two of them make up for each other in a plain sum: signs, the same bit twice."""
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    tensors = {"w": torch.randn(30, 70), "w.exp_avg": torch.zeros(30, 70), "s": torch.tensor(3.0)}
    with mock.patch("training.checkpoint.tensors.PIECE_BYTES", 3000):
        file = write_tensors(path, tensors)
    body = bytearray(path.read_bytes())
    slots, pieces = open_header(file, "x", lambda start, n: bytes(body[start : start + n]))
    if version < 4:
        file = replace(file, xxh3=())
    if version == 3:
        crc32 = tuple(f"{zlib.crc32(body[piece.start : piece.stop]):08x}" for piece in pieces)
        file = replace(file, crc32=crc32)
    flipped = {bit % (8 * file.size) for bit in bits}
    for bit in flipped:
        body[bit // 8] ^= 1 << bit % 8
    path.write_bytes(body)
    hit = {
        f"tensor {slot.name}:"
        for slot in slots
        if any(slot.start <= bit // 8 < slot.stop for bit in flipped)
    }
    if any(bit // 8 < slots[0].start for bit in flipped):
        hit = {"the header:"}
    with pytest.raises(CorruptError, match="x was altered in ") as refused:
        read_tensors(path, file, "x")
    assert any(f"was altered in {what}" in str(refused.value) for what in hit)


def test_two_signs_that_turn_over_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    file = write_tensors(path, {"w": torch.ones(1000)})
    body = bytearray(path.read_bytes())
    for at in (1, 513):
        body[-4 * at + 3] ^= 0x80
    path.write_bytes(body)
    with pytest.raises(CorruptError, match="altered in tensor w:"):
        read_tensors(path, file, "x")


def test_restored_tensors_are_aligned_as_those_of_torch_and_free_to_change(tmp_path: Path) -> None:
    """Else a sum over them might depend on whether they were restored."""
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(5, 3), "b.step": torch.tensor(1.0), "c": torch.randn(1 << 20)}
    file = write_tensors(path, tensors)
    found = read_tensors(path, file, "x")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
    for tensor in found.values():
        tensor.zero_()
    again = read_tensors(path, file, "x")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_file_of_the_library_is_read_as_format_1(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(30, 7), "b": torch.randn(3).bfloat16()}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    digest = digest_file(path, path.name)
    found = read_tensors(path, TensorFile(digest.name, digest.size, digest.sha256), "x")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    # Their own memory: to write into them changes no file.
    found["w"].zero_()
    assert digest_file(path, path.name) == digest


def golden_tensors(plan: TrainPlan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the golden states were filled with, spelled out anew."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in cast("nn.Module", build_model(plan.model, seed=0)).named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        shape = parameter.shape
        weights[name] = torch.randint(-512, 512, shape, generator=generator) / 1024
        moments[f"{name}.exp_avg"] = torch.randint(-512, 512, shape, generator=generator) / 4096
        moments[f"{name}.exp_avg_sq"] = torch.randint(512, 1024, shape, generator=generator) / 32768
        moments[f"{name}.step"] = torch.tensor(3.0)
    return weights, moments


@pytest.mark.parametrize("version", range(1, FORMAT + 1))
def test_states_of_earlier_versions_load_and_their_runs_go_on(tmp_path: Path, version: int) -> None:
    plan, uri = tiny_plan(tmp_path / "store")
    plan = replace(plan, model=replace(MODEL, hidden_size=4, intermediate_size=4))
    store = LocalObjects(tmp_path / "store")
    checkpoint = step_prefix(plan.checkpoint_prefix, 3)
    for path in (GOLDEN / f"version-{version}").iterdir():
        store.put_file(f"{checkpoint}/{path.name}", path)
    loaded = load_state(store, checkpoint, tmp_path / "work")
    for found, expected in zip((loaded.weights, loaded.moments), golden_tensors(plan), strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.progress.step == 3
    assert read_manifest(store, checkpoint).format == version
    final = run_training(
        plan, store_uri=uri, num_workers=0, work_dir=tmp_path / "work", threads_per_worker=1
    )
    went_on = load_state(store, final, tmp_path / "work")
    assert went_on.moments["model.norm.weight.step"] == plan.num_steps


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = LocalObjects(tmp_path)
    saved = save(store, plan, state_at(plan, 3), {}, tmp_path / "work")
    manifest = replace(read_manifest(store, saved), format=FORMAT + 1)
    store.delete(f"{saved}/manifest.json")
    publish(store, f"{saved}/manifest.json", manifest)
    with pytest.raises(CorruptError, match=r"has format 5, this version reads up to 4; go on with"):
        load_state(store, saved, tmp_path / "work")


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


@pytest.mark.parametrize("kind", ["weights", "moments", "progress", "manifest", "keep", "life"])
@pytest.mark.parametrize("is_zip", [False, True])
def test_a_planted_program_does_not_run(tmp_path: Path, kind: str, is_zip: bool) -> None:
    marker = tmp_path / "ran"
    plan, uri = tiny_plan(tmp_path / "store", num_steps=3)
    store = LocalObjects(tmp_path / "store")
    saved = save(store, plan, state_at(plan, 2), {}, tmp_path / "work")
    planted = tmp_path / "planted"
    if is_zip:
        torch.save(Payload(marker), planted)
    else:
        planted.write_bytes(pickle.dumps(Payload(marker)))
    manifest = read_manifest(store, saved)
    if kind in ("weights", "moments"):
        # As who can write to the store would do it: the manifest promises these very bytes.
        old: TensorFile = getattr(manifest, kind)
        digest = digest_file(planted, old.name)
        file = TensorFile(digest.name, digest.size, digest.sha256)
        manifest = replace(manifest, **cast("Any", {kind: file}))
        store.delete(f"{saved}/manifest.json")
        publish(store, f"{saved}/manifest.json", manifest)
        key = f"{saved}/{old.name}"
    else:
        names = {"progress": "state.json", "manifest": "manifest.json", "keep": "keep.json"}
        lives = f"{plan.checkpoint_prefix}/lives/1.json"
        key = f"{saved}/{names[kind]}" if kind in names else lives
    store.put(key, planted.read_bytes())
    if kind not in ("keep", "life"):
        with pytest.raises(CorruptError, match=key):
            load_state(store, saved, tmp_path / "work")
    assert run_training(
        plan, store_uri=uri, num_workers=0, work_dir=tmp_path / "work", threads_per_worker=1
    )
    assert not marker.exists()
    # The payload is live: whoever unpickles it runs it.
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


def test_the_manifest_says_its_format(tmp_path: Path) -> None:
    plan, _ = tiny_plan(tmp_path)
    store = LocalObjects(tmp_path)
    saved = save(store, plan, state_at(plan, 3), {}, tmp_path / "work")
    loaded: LoadedState = load_state(store, saved, tmp_path / "work")
    assert json.loads(store.get(f"{saved}/manifest.json"))["format"] == FORMAT
    assert loaded.progress.format == FORMAT
