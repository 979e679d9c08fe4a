"""Models in and out of plans and directories, whoever computes them.

What ``transformers`` computes is imported only for such a model: a box without it trains the
native decoder.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from training.causal_model import CausalModel
from training.checkpoint.state import adopt_weights
from training.config import ForeignConfig, ModelConfig
from training.decoder.model import Decoder
from training.hub.config import config_from
from training.hub.directory import load_decoder, write_model


def build_model(config: ModelConfig | ForeignConfig, *, seed: int | None) -> CausalModel:
    """A model on the processor, its weights drawn from ``seed``; with None they may be anything."""
    if isinstance(config, ModelConfig):
        return Decoder(config, seed=seed)
    from training.foreign.model import build_foreign  # noqa: PLC0415  transformers

    return build_foreign(config, seed=seed)


def model_with(
    config: ModelConfig | ForeignConfig, weights: dict[str, Tensor], source: str
) -> CausalModel:
    """A model on the processor with ``weights`` of a checkpoint, in evaluation mode.

    Raises:
        CorruptError: A name or shape is not the model's; ``source`` says whose they are.
    """
    if isinstance(config, ModelConfig):
        with torch.device("meta"):
            decoder = Decoder(config)
        adopt_weights(decoder, weights, source)
        return decoder.eval()
    from training.foreign.model import adopt_foreign, build_foreign  # noqa: PLC0415  transformers

    model = build_foreign(config, seed=None)
    adopt_foreign(model, weights, source)
    return model


def load_model(directory: Path) -> CausalModel:
    """The model of a Hugging Face directory, on the processor and in evaluation mode.

    Raises:
        ValueError: The directory holds something that could not be computed exactly as transformers
            does; the message names the field, the tensor or the file.
        FileNotFoundError: config.json or the weights are missing.
    """
    if is_native(directory / "config.json"):
        return load_decoder(directory)
    from training.foreign.files import load_foreign  # noqa: PLC0415  transformers

    return load_foreign(directory)


def load_like(model: CausalModel, directory: Path) -> CausalModel:
    """``load_model``, computed by whoever computes ``model``."""
    if isinstance(model, Decoder):
        return load_decoder(directory)
    from training.foreign.files import load_foreign  # noqa: PLC0415  transformers

    return load_foreign(directory)


def write_directory(directory: Path, model: CausalModel, *, start_id: int, end_id: int) -> None:
    """Write a Hugging Face directory, into a fresh folder: not atomic. Safe to retry.

    Args:
        directory: Created when missing.
        model: Its weights are stored in the precision they have, tied ones once.
        start_id: Token that opens every document.
        end_id: Token that ends one.
    """
    if isinstance(model, Decoder):
        weights = model.state_dict()
        write_model(directory, model.config, weights, start_id=start_id, end_id=end_id)
        return
    from training.foreign.files import write_foreign  # noqa: PLC0415  transformers
    from training.foreign.model import ForeignModel  # noqa: PLC0415  transformers

    write_foreign(directory, cast("ForeignModel", model), start_id=start_id, end_id=end_id)


def is_native(path: Path) -> bool:
    """Whether the decoder computes the model of this config.json.

    Raises:
        ValueError: It is not JSON.
        FileNotFoundError: It is missing.
    """
    try:
        fields = cast("dict[str, Any]", json.loads(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the file again") from error
    try:
        config_from(fields, path)
    except ValueError:
        return False
    return True
