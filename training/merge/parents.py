"""Models that are to become one: whether they fit each other, said before anything is written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from training.hub.weights import StoredTensor, read_tensor, stored_tensors

MIN_COSINE = 0.5
"""Between the matrices of two models with a common ancestor, at least; of two that were trained
from different random weights it is 0."""

_OUTPUT = "lm_head.weight"
# Fields of config.json that say nothing of what is computed by the same weights.
_FREE_FIELDS = {
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Parts of tokenizer.json that decide which tokens a text becomes; added tokens may differ.
_SPELLING = ("normalizer", "pre_tokenizer", "model")


@dataclass(frozen=True, slots=True)
class Parent:
    """A Hugging Face directory of which no weight is read yet."""

    name: str
    """As messages are to call it."""
    directory: Path
    tensors: Mapping[str, StoredTensor]
    """By name; tied embeddings once."""


def open_parents(directories: Mapping[str, Path]) -> list[Parent]:
    """The models in ``directories``, by the names that messages are to use, once they fit together.

    Raises:
        ValueError: Architecture, vocabulary, tokenizer, or the names or shapes of tensors differ;
            names the models and what differs.
        FileNotFoundError: A file is missing.
    """
    parents = [_opened(name, directory) for name, directory in directories.items()]
    first = parents[0]
    for other in parents[1:]:
        _check_fields(first, other)
        _check_tokenizer(first, other)
        _check_tensors(first, other)
    return parents


def check_related(one: Parent, other: Parent) -> float:
    """The cosine between all matrices of two models that must have a common ancestor.

    Reads every matrix of both, one at a time.

    Raises:
        ValueError: They point in unrelated directions: halfway between two such models lies none.
    """
    cosine = cosine_of(one, other)
    # Written this way round, NaN is refused too.
    if not cosine >= MIN_COSINE:
        raise ValueError(
            f"{one.name} and {other.name} must have a common ancestor, and the cosine between "
            f"their weights is {cosine:.3f}, expected at least {MIN_COSINE:g}: merge models of one "
            "lineage, or of one base model"
        )
    return cosine


def cosine_of(one: Parent, other: Parent) -> float:
    """Between all matrices of two models, taken as two long vectors; NaN when one is all zero."""
    products: list[tuple[float, float, float]] = []
    for name, stored in one.tensors.items():
        if len(stored.shape) < 2 or not stored.form.dtype.is_floating_point:
            continue
        a = read_tensor(stored).float().reshape(-1)
        b = read_tensor(other.tensors[name]).float().reshape(-1)
        products.append((float(a @ b), float(a @ a), float(b @ b)))
    dot, of_one, of_other = (math.fsum(column) for column in zip(*products, strict=True))
    return dot / math.sqrt(of_one * of_other) if of_one > 0 and of_other > 0 else math.nan


def _opened(name: str, directory: Path) -> Parent:
    tensors = stored_tensors(directory)
    if _fields_of(directory).get("tie_word_embeddings"):
        tensors.pop(_OUTPUT, None)
    return Parent(name, directory, tensors)


def _fields_of(directory: Path) -> dict[str, Any]:
    return _json_of(directory / "config.json")


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the file again") from error


def _check_fields(one: Parent, other: Parent) -> None:
    ours, theirs = _fields_of(one.directory), _fields_of(other.directory)
    for field in sorted((ours.keys() | theirs.keys()) - _FREE_FIELDS):
        if ours.get(field) != theirs.get(field):
            what = "vocabulary" if field == "vocab_size" else "architecture"
            raise ValueError(
                f"{one.name} and {other.name} have another {what}: {field} is "
                f"{ours.get(field)!r} and {theirs.get(field)!r}; only models of the same can be "
                "merged"
            )


def _check_tokenizer(one: Parent, other: Parent) -> None:
    paths = [parent.directory / "tokenizer.json" for parent in (one, other)]
    present = [path for path in paths if path.exists()]
    if len(present) == 1:
        raise ValueError(
            f"{present[0]} is there, but one of {one.name} and {other.name} has no tokenizer.json: "
            "it cannot be seen that they share a tokenizer; copy it beside its model"
        )
    if not present:
        return
    ours, theirs = (_json_of(path) for path in paths)
    for part in _SPELLING:
        if ours.get(part) != theirs.get(part):
            raise ValueError(
                f"{one.name} and {other.name} have different tokenizers ({part} of tokenizer.json "
                "differs): a row of their embeddings stands for different tokens, so they cannot "
                "be merged"
            )


def _check_tensors(one: Parent, other: Parent) -> None:
    odd = sorted(one.tensors.keys() ^ other.tensors.keys())
    if odd:
        owner = one if odd[0] in one.tensors else other
        raise ValueError(
            f"{one.name} and {other.name} do not have the same tensors: {odd[0]} is in "
            f"{owner.name} only ({len(odd)} in all); only models of the same architecture can be "
            "merged"
        )
    for name, stored in one.tensors.items():
        shape, dtype = other.tensors[name].shape, other.tensors[name].form.dtype
        is_number = stored.form.dtype.is_floating_point
        if shape != stored.shape or dtype.is_floating_point != is_number:
            raise ValueError(
                f"{name} is {stored.dtype} {list(stored.shape)} in {one.name} and "
                f"{other.tensors[name].dtype} {list(shape)} in {other.name}: only models of the "
                "same architecture can be merged"
            )
