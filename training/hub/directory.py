"""Hugging Face directories in and out, for what ``training.decoder.model`` computes exactly.

A model is never in memory twice: its tensors go one by one from the files into the parameters and
from the parameters into the files.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from training.config import ModelConfig
from training.decoder.model import Decoder
from training.decoder.sharding import fill
from training.hub.config import config_from, fields_of, token_ids_of
from training.hub.weights import (
    MAX_SHARD_BYTES,
    StoredTensor,
    read_tensor,
    stored_tensors,
    write_weights,
)

_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_READABLE_DTYPES = ("F32", "BF16", "F16")
_FREE_FIELDS = ("max_position_embeddings", "initializer_range", "head_dim")
"""No logit depends on the first two; of the third, ``head_width`` is what matters."""
_COMPARED_ROWS = 4096


class HubModel(NamedTuple):
    """A Hugging Face directory, read and checked."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """float32, under the names of ``Decoder.state_dict()``."""
    token_ids: dict[str, int]
    """``bos`` and ``eos``, each where config.json has it; the first where it lists several."""


def read_model(directory: Path) -> HubModel:
    """Read a directory of a family of ``training.decoder.families``; bf16 and fp16 become float32.

    Raises:
        ValueError: The directory holds something that ``Decoder`` would not compute exactly as
            transformers does; the message names the field or the tensor.
        FileNotFoundError: config.json or the weights are missing.
    """
    decoder = load_decoder(directory)
    token_ids = token_ids_of(_read_fields(directory))
    return HubModel(decoder.config, decoder.state_dict(), token_ids)


def read_config(directory: Path) -> ModelConfig:
    """The architecture of a directory, whose weights are not looked at. Raises as ``read_model``.

    Raises:
        ValueError: ``Decoder`` does not compute it; names the field.
        FileNotFoundError: config.json is missing.
    """
    return config_from(_read_fields(directory), directory / "config.json")


def load_decoder(directory: Path) -> Decoder:
    """A decoder with the weights of ``directory``, on the processor and in evaluation mode.

    Raises as ``read_model`` does.
    """
    model = Decoder(read_config(directory), seed=None)
    read_into(model, directory)
    return model.eval()


def read_into(model: Decoder, directory: Path, *, source: str | None = None) -> None:
    """Replace the weights of ``model`` by those of ``directory``, tensor by tensor.

    They are converted to the precision of the model. It may be on any device but meta, and sharded:
    then every rank calls this, with the same directory.

    Args:
        model: Of the same architecture.
        directory: Read as it is; its manifest, if it has one, is the caller's to verify.
        source: Where the directory came from, for messages.

    Raises:
        ValueError: The directory holds another architecture, or weights that do not fit it; names
            the field or the tensor. Nothing was replaced, unless tied weights turn out to differ.
        FileNotFoundError: config.json or the weights are missing.
    """
    _check_same(read_config(directory), model.config, source or str(directory))
    parameters = dict(model.named_parameters())
    # Written by old versions of transformers; a function of head_dim and rope_theta.
    stored = {
        name: tensor
        for name, tensor in stored_tensors(directory).items()
        if not name.endswith("rotary_emb.inv_freq")
    }
    copy_of_embedding = stored.pop(_OUTPUT, None) if model.config.tie_embeddings else None
    _check_fit(stored, parameters, directory)
    for name, parameter in parameters.items():
        fill(parameter, read_tensor(stored[name]))
    if copy_of_embedding is not None:
        _check_tied(read_tensor(stored[_EMBEDDING]), read_tensor(copy_of_embedding), directory)


def write_model(
    directory: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    start_id: int,
    end_id: int,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config.json, generation_config.json and the weights, as transformers reads them.

    Not atomic: write into a fresh directory and publish it when this returned. Safe to retry.

    Args:
        directory: Created when missing.
        config: Architecture.
        weights: ``Decoder.state_dict()``; stored in the precision they have, tied embeddings once.
        start_id: Token that opens every document.
        end_id: Token that ends one.
        max_shard_bytes: Weights above this go into several files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    about = fields_of(config, start_id=start_id, end_id=end_id)
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) == 1:
        about["torch_dtype"] = str(dtypes.pop()).removeprefix("torch.")
    _write_json(directory / "config.json", about)
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": start_id, "eos_token_id": end_id, "do_sample": False},
    )
    written = {
        name: tensor
        for name, tensor in weights.items()
        if not (config.tie_embeddings and name == _OUTPUT)
    }
    write_weights(directory, written, max_shard_bytes=max_shard_bytes)


def _read_fields(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        return cast("dict[str, Any]", json.loads(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the file again") from error


def _check_same(found: ModelConfig, expected: ModelConfig, source: str) -> None:
    names = [field.name for field in fields(ModelConfig) if field.name not in _FREE_FIELDS]
    for name in [*names, "head_width"]:
        if getattr(found, name) != getattr(expected, name):
            raise ValueError(
                f"{source} holds another model than the one expected: {name} is "
                f"{getattr(found, name)} there, expected {getattr(expected, name)}; start from a "
                "model of the same architecture"
            )


def _check_fit(
    stored: Mapping[str, StoredTensor], parameters: Mapping[str, Tensor], directory: Path
) -> None:
    """Raise ValueError unless the tensors are exactly those of the architecture."""
    for what, names in (
        ("lacks", sorted(parameters.keys() - stored.keys())),
        ("has the unexpected", sorted(stored.keys() - parameters.keys())),
    ):
        if names:
            raise ValueError(
                f"{directory} {what} tensor {names[0]} ({len(names)} in all) by its config.json; "
                "config.json and weights must be of the same model"
            )
    for name, parameter in parameters.items():
        dtype, shape = stored[name].dtype, stored[name].shape
        if shape != tuple(parameter.shape) or dtype not in _READABLE_DTYPES:
            raise ValueError(
                f"{directory}: tensor {name} is {dtype} {list(shape)}, expected "
                f"{' or '.join(_READABLE_DTYPES)} {list(parameter.shape)} by its config.json; "
                "config.json and weights must be of the same model, without quantization"
            )


def _check_tied(embedding: Tensor, output: Tensor, directory: Path) -> None:
    for start in range(0, max(len(embedding), len(output)), _COMPARED_ROWS):
        rows = slice(start, start + _COMPARED_ROWS)
        if not torch.equal(embedding[rows].float(), output[rows].float()):
            raise ValueError(
                f"{directory}: tie_word_embeddings is true but {_OUTPUT} differs from "
                f"{_EMBEDDING}; set tie_word_embeddings to false in config.json if the output "
                "layer is its own"
            )


def _write_json(path: Path, about: dict[str, Any]) -> None:
    path.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
