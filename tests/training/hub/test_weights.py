import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.families import config_of
from training.decoder.model import Decoder
from training.hub.directory import write_model
from training.hub.weights import read_tensor, stored_tensors, write_weights

INDEX = "model.safetensors.index.json"
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tensors_of(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"b.weight": (3, 5), "a.weight": (7,), "scalar": (), "none": (0, 4), "ü": (2, 2)}
    return {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_library_reads_what_we_write(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = tensors_of(dtype)
    # Not in the order of its memory.
    tensors["turned"] = tensors["b.weight"].T
    write_weights(tmp_path, tensors)

    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bytes_are_those_of_the_librarys_own_writer(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = tensors_of(dtype)
    write_weights(tmp_path, tensors)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})

    ours = (tmp_path / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "theirs.safetensors").read_bytes()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 400))
def test_files_are_no_larger_than_asked_and_hold_everything_once(
    widths: list[int], max_shard_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check_files(Path(directory), widths, max_shard_bytes)


def check_files(directory: Path, widths: list[int], max_shard_bytes: int) -> None:
    tensors = {f"{n}.weight": torch.full((width,), float(n)) for n, width in enumerate(widths)}
    write_weights(directory, tensors, max_shard_bytes=max_shard_bytes)

    files = sorted(directory.glob("*.safetensors"))
    contents = {path.name: load_file(path) for path in files}
    for content in contents.values():
        size = sum(tensor.nbytes for tensor in content.values())
        assert size <= max_shard_bytes or len([t for t in content.values() if t.nbytes]) == 1
    found = {name: tensor for content in contents.values() for name, tensor in content.items()}
    assert sum(len(content) for content in contents.values()) == len(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    if len(files) > 1:
        index = json.loads((directory / INDEX).read_text())
        assert all(name in contents[file] for name, file in index["weight_map"].items())
        assert index["weight_map"].keys() == tensors.keys()
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    else:
        assert not (directory / INDEX).exists()
    stored = stored_tensors(directory)
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(read_tensor(stored[name]), tensors[name]) for name in tensors)


def test_weights_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    """transformers would read the one file, and the index may mean others."""
    tensors = tensors_of(torch.float32)
    write_weights(tmp_path, tensors, max_shard_bytes=20)
    write_weights(tmp_path, tensors)
    with pytest.raises(ValueError, match=r"twice, in model\.safetensors and .*index\.json: remove"):
        stored_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, tensors_of(torch.float32), max_shard_bytes=20)
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"has tensor .* twice, in .*; copy the model again"):
        stored_tensors(tmp_path)


# How far the resident memory rises when a bf16 model is read, written as float32 and read again.
MEASURE = """
import sys
from pathlib import Path

import torch

from training.hub.directory import load_decoder, write_model


def resident_peak():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


before = resident_peak()
source, target = Path(sys.argv[1]), Path(sys.argv[1]) / "again"
for directory in (source, target):
    model = load_decoder(directory)
    print(resident_peak() - before)
    if directory is source:
        weights = model.state_dict()
        write_model(target, model.config, weights, start_id=0, end_id=0, max_shard_bytes=50_000_000)
        print(resident_peak() - before)
    model = weights = None
"""


def test_a_model_is_never_in_memory_twice(tmp_path: Path) -> None:
    config = config_of(
        "llama untied",
        vocab_size=16_384,
        hidden_size=768,
        intermediate_size=3072,
        num_layers=3,
    )
    model = Decoder(config, seed=None).bfloat16()
    weights = {name: tensor.zero_() for name, tensor in model.state_dict().items()}
    num_bytes = sum(tensor.numel() * 4 for tensor in weights.values())
    write_model(tmp_path, config, weights, start_id=0, end_id=0, max_shard_bytes=50_000_000)

    found = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    assert num_bytes > 200e6
    rises = [int(line) / num_bytes for line in found.stdout.split()]
    assert len(rises) == 3
    assert all(0.99 < rise < 1.4 for rise in rises), rises
    assert len(list((tmp_path / "again").glob("model-*-of-*.safetensors"))) > 3
