"""Several Hugging Face directories to one, by a rule, a tensor of each parent at a time."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.hub.weights import MAX_SHARD_BYTES, read_tensor, write_each
from training.merge.parents import Parent
from training.merge.rules import Rule

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_NOT_OF_THE_MODEL = {"MLmodel", "manifest.json", "README.md"}


def merge(
    parents: Sequence[Parent],
    rule: Rule,
    directory: Path,
    *,
    about: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model that ``rule`` makes of ``parents``. Not atomic; safe to repeat.

    In memory are one tensor of every parent and the merged one, whatever the size of the models.
    Tensors have the precision that the first parent has them in; what is no floating-point number
    is copied and must be the same in all. Tied embeddings are merged and written once.

    Args:
        parents: From ``training.merge.parents.open_parents``.
        rule: One of ``training.merge.rules``.
        directory: Emptied first, created when missing.
        about: Directory of config.json, the tokenizer and all that goes with them; the first
            parent's if None.
        max_shard_bytes: Weights above this go into several files.

    Raises:
        ValueError: Parents have different integers, or the rule cannot be applied; names the
            tensor.
    """
    first = parents[0]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _copy_all_but_weights(about or first.directory, directory)
    forms = {name: stored.form for name, stored in first.tensors.items()}
    dtypes = {form.dtype for form in forms.values() if form.dtype.is_floating_point}
    if len(dtypes) == 1:
        _say_dtype(directory / "config.json", dtypes.pop())
    write_each(
        directory,
        forms,
        lambda name: _merged(parents, rule, name),
        max_shard_bytes=max_shard_bytes,
    )


def _merged(parents: Sequence[Parent], rule: Rule, name: str) -> Tensor:
    tensors = [read_tensor(parent.tensors[name]) for parent in parents]
    if tensors[0].dtype.is_floating_point:
        return rule(name, tensors)
    for parent, tensor in zip(parents, tensors, strict=True):
        if not torch.equal(tensor, tensors[0]):
            raise ValueError(
                f"{name} holds whole numbers, which cannot be averaged, and they are not the same "
                f"in {parents[0].name} and {parent.name}"
            )
    return tensors[0]


def _copy_all_but_weights(source: Path, directory: Path) -> None:
    for path in sorted(source.iterdir()):
        is_weight = path.name.endswith(_WEIGHTS)
        if path.is_file() and not is_weight and path.name not in _NOT_OF_THE_MODEL:
            shutil.copyfile(path, directory / path.name)


def _say_dtype(path: Path, dtype: torch.dtype) -> None:
    fields = json.loads(path.read_bytes())
    fields.pop("dtype", None)
    fields["torch_dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
