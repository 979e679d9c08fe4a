"""Weights of Hugging Face directories: safetensors, one file or several, a tensor at a time.

Whatever the size of the model, reading and writing hold one tensor besides the model itself. Plain
safetensors only; a pickle can run code.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_SHARD_BYTES = 5_000_000_000
"""Of one file, as the hub has them."""
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TORCH_DTYPES = {spelled: dtype for dtype, spelled in _DTYPES.items()}


class StoredTensor(NamedTuple):
    """One tensor of a directory, not read yet."""

    name: str
    path: Path
    dtype: str
    """As safetensors spells it, e.g. ``BF16``."""
    shape: tuple[int, ...]

    @property
    def form(self) -> "TensorForm":
        """What it takes to store another like it.

        Raises:
            ValueError: Its numbers are of a kind that is never written here.
        """
        if self.dtype not in _TORCH_DTYPES:
            raise ValueError(
                f"{self.path}: tensor {self.name} is {self.dtype}, expected one of "
                f"{', '.join(_TORCH_DTYPES)}; use the model without quantization"
            )
        return TensorForm(_TORCH_DTYPES[self.dtype], self.shape)


class TensorForm(NamedTuple):
    """A tensor without its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """What the weights of a directory are, by name; only the heads of the files are read.

    Raises:
        FileNotFoundError: A file of weights is missing.
        ValueError: There is only a pickle, a file is not whole, or a tensor or the whole model is
            there twice.
    """
    found: dict[str, StoredTensor] = {}
    for path in _files_of(directory):
        for tensor in _head_of(path):
            if tensor.name in found:
                raise ValueError(
                    f"{directory} has tensor {tensor.name} twice, in {path.name} and in "
                    f"{found[tensor.name].path.name}; copy the model again"
                )
            found[tensor.name] = tensor
    return found


def read_tensor(stored: StoredTensor) -> Tensor:
    """The tensor on the processor, as it was stored; its memory is the file's, so copy it."""
    # Opened anew for every tensor, because what was read of a mapped file stays in memory until it
    # is closed.
    with safe_open(stored.path, framework="pt") as file:
        return cast("Tensor", file.get_tensor(stored.name))


def write_weights(
    directory: Path, tensors: Mapping[str, Tensor], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write model.safetensors, or numbered files and their index when it would become too large.

    The names are those that transformers gives. The same tensors give the same bytes.

    Args:
        directory: There, and without weights.
        tensors: In the precision to store; those on another device are fetched one by one. Names of
            shared memory must be left out but one.
        max_shard_bytes: Of tensors in one file; one that is larger gets a file of its own.
    """
    forms = {
        name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    write_each(directory, forms, tensors.__getitem__, max_shard_bytes=max_shard_bytes)


def write_each(
    directory: Path,
    forms: Mapping[str, TensorForm],
    tensor_of: Callable[[str], Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """``write_weights`` of tensors that are made one by one: one of them is in memory at a time.

    Args:
        directory: There, and without weights.
        forms: Of every tensor, by name.
        tensor_of: Asked once for each, in no order that could be relied on.
        max_shard_bytes: See ``write_weights``.
    """
    shards = _shards_of(forms, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / _WEIGHTS, {name: forms[name] for name in shards[0]}, tensor_of)
        return
    stem = Path(_WEIGHTS).stem
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / file_name, {name: forms[name] for name in names}, tensor_of)
        weight_map |= dict.fromkeys(names, file_name)
    total = sum(form.nbytes for form in forms.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (directory / _INDEX).write_text(text, encoding="utf-8")


def _files_of(directory: Path) -> list[Path]:
    index_path, single = directory / _INDEX, directory / _WEIGHTS
    names = [_WEIGHTS]
    if index_path.exists():
        index = cast("dict[str, Any]", json.loads(index_path.read_bytes()))
        names = sorted(set(index.get("weight_map", {}).values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(
                f"{index_path} names {outside[0]!r}, which is not a file of this directory; copy "
                "the model again"
            )
        if single.exists() and names != [_WEIGHTS]:
            raise ValueError(
                f"{directory} has its weights twice, in {_WEIGHTS} and in the files of {_INDEX}: "
                "remove those that are not meant"
            )
    elif not single.exists():
        _refuse_pickles(directory)
    for name in names:
        if not (directory / name).exists():
            raise FileNotFoundError(f"{directory / name} is missing; copy the model again")
    return [directory / name for name in names]


def _refuse_pickles(directory: Path) -> None:
    pickled = sorted(path.name for path in directory.glob("pytorch_model*.bin"))
    if pickled:
        raise ValueError(
            f"{directory} has its weights in {pickled[0]} only, a pickle, which can run code and "
            "is never read; convert it to safetensors: load it with transformers where you trust "
            "it, then save_pretrained(..., safe_serialization=True)"
        )


def _head_of(path: Path) -> Iterator[StoredTensor]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a dict
                view = file.get_slice(name)
                yield StoredTensor(name, path, view.get_dtype(), tuple(view.get_shape()))
    except SafetensorError as error:
        raise ValueError(f"{path} is not whole safetensors: {error}; copy it again") from error


def _shards_of(forms: Mapping[str, TensorForm], max_shard_bytes: int) -> list[list[str]]:
    """Names for each file, in their order."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, form in forms.items():
        if shards[-1] and used + form.nbytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += form.nbytes
    return shards


def _write_file(
    path: Path, forms: Mapping[str, TensorForm], tensor_of: Callable[[str], Tensor]
) -> None:
    """The format by hand: the library's own writer wants all tensors on the processor at once."""
    # Wide numbers first, so that each lies at a multiple of its own width.
    names = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        form, begins = forms[name], offset
        offset += form.nbytes
        header[name] = {
            "dtype": _DTYPES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [begins, offset],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            whole = tensor_of(name).detach().cpu().contiguous()
            assert (whole.dtype, tuple(whole.shape)) == forms[name], name
            file.write(whole.reshape(-1).view(torch.uint8).numpy().data)
