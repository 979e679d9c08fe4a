"""Hugging Face directories in and out, for what ``training.model`` computes exactly.

Weights come from safetensors only; a pickle can run code.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import ModelConfig
from training.hub_config import config_from, fields_of, token_ids_of
from training.model import Decoder

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class HubModel(NamedTuple):
    """A Hugging Face directory, read and checked."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """float32, under the names of ``Decoder.state_dict()``."""
    token_ids: dict[str, int]
    """``bos`` and ``eos``, each where config.json has it; the first where it lists several."""


def read_model(directory: Path) -> HubModel:
    """Read a directory of model type llama or qwen2; bf16 and fp16 weights become float32.

    Raises:
        ValueError: The directory holds something that ``Decoder`` would not compute exactly as
            transformers does; the message names the field or the tensor.
        FileNotFoundError: config.json or the weights are missing.
    """
    path = directory / "config.json"
    try:
        fields = cast("dict[str, Any]", json.loads(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the file again") from error
    config = config_from(fields, path)
    return HubModel(
        config=config,
        weights=_checked(_read_weights(directory), config, directory),
        token_ids=token_ids_of(fields),
    )


def load_decoder(directory: Path) -> Decoder:
    """A decoder with the weights of ``directory``, on the processor and in evaluation mode.

    Raises as ``read_model`` does.
    """
    found = read_model(directory)
    with torch.device("meta"):
        model = Decoder(found.config)
    # assign: the tensors read become the parameters, without a second copy in memory.
    model.load_state_dict(found.weights, assign=True)
    return model.eval()


def write_model(
    directory: Path,
    config: ModelConfig,
    weights: dict[str, Tensor],
    *,
    start_id: int,
    end_id: int,
) -> None:
    """Write config.json, generation_config.json and model.safetensors, as transformers reads them.

    Not atomic: write into a fresh directory and publish it when this returned. Safe to retry.

    Args:
        directory: Created when missing.
        config: Architecture.
        weights: ``Decoder.state_dict()``; stored in the precision they have, tied embeddings once.
        start_id: Token that opens every document.
        end_id: Token that ends one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fields = fields_of(config, start_id=start_id, end_id=end_id)
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) == 1:
        fields["torch_dtype"] = str(dtypes.pop()).removeprefix("torch.")
    _write_json(directory / "config.json", fields)
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": start_id, "eos_token_id": end_id, "do_sample": False},
    )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})


def _read_weights(directory: Path) -> dict[str, Tensor]:
    names = [_WEIGHTS]
    if (directory / _INDEX).exists():
        index = json.loads((directory / _INDEX).read_bytes())
        names = sorted(set(index.get("weight_map", {}).values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(
                f"{directory / _INDEX} names {outside[0]!r}, which is not a file of this "
                "directory; copy the model again"
            )
    elif not (directory / _WEIGHTS).exists():
        pickled = sorted(path.name for path in directory.glob("pytorch_model*.bin"))
        if pickled:
            raise ValueError(
                f"{directory} has its weights in {pickled[0]} only, a pickle, which can run code "
                "and is never read; convert it to safetensors: load it with transformers where "
                "you trust it, then save_pretrained(..., safe_serialization=True)"
            )
    weights: dict[str, Tensor] = {}
    for name in names:
        path = directory / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; copy the model again")
        try:
            weights |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not whole safetensors: {error}; copy it again") from error
    return weights


def _checked(weights: dict[str, Tensor], config: ModelConfig, directory: Path) -> dict[str, Tensor]:
    """The weights as float32, if they are exactly those of the architecture."""
    with torch.device("meta"):
        expected = {name: t.shape for name, t in Decoder(config).state_dict().items()}
    if config.tie_embeddings and "lm_head.weight" in weights:
        if not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"]):
            raise ValueError(
                f"{directory}: tie_word_embeddings is true but lm_head.weight differs from "
                "model.embed_tokens.weight; set tie_word_embeddings to false in config.json if "
                "the output layer is its own"
            )
        del weights["lm_head.weight"]
    # Written by old versions of transformers; a function of head_dim and rope_theta.
    found = {n: t for n, t in weights.items() if not n.endswith("rotary_emb.inv_freq")}
    for what, names in (
        ("lacks", sorted(expected.keys() - found.keys())),
        ("has the unexpected", sorted(found.keys() - expected.keys())),
    ):
        if names:
            raise ValueError(
                f"{directory} {what} tensor {names[0]} ({len(names)} in all) by its config.json; "
                "config.json and weights must be of the same model"
            )
    for name, tensor in found.items():
        if tensor.shape != expected[name] or not tensor.is_floating_point():
            raise ValueError(
                f"{directory}: tensor {name} is {tensor.dtype} {list(tensor.shape)}, expected "
                f"floating point {list(expected[name])} by its config.json"
            )
    return {name: tensor.float() for name, tensor in found.items()}


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
