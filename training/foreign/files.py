"""Hugging Face directories of the models that ``transformers`` computes, in and out."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from training.checkpoint.state import weights_of
from training.config import ForeignConfig
from training.decoder.sharding import fill
from training.foreign.config import (
    PACKING_FIELD,
    fields_of,
    foreign_config_of,
    refuse_by_name,
    why_not_native,
)
from training.foreign.family import (
    all_fields,
    attention_of,
    config_object,
    transformers_library,
)
from training.foreign.model import ForeignModel, check_fit
from training.foreign.packing import check_packing, find_packing
from training.hub.weights import read_tensor, stored_tensors, write_weights

logger = logging.getLogger(__name__)

_READABLE_DTYPES = ("F32", "BF16", "F16")


def load_foreign(directory: Path) -> ForeignModel:
    """The model of a Hugging Face directory in float32, tried out before it is returned.

    Raises:
        ValueError: transformers cannot compute the model or we could not train it exactly; names
            the field, the tensor or the file.
    """
    path = directory / "config.json"
    given = cast("dict[str, Any]", json.loads(path.read_bytes()))
    refuse_by_name(given, path)
    _refuse_files(directory)
    made = config_object(given, path)
    config = foreign_config_of(_recorded(given) | all_fields(made), path)
    network, report = transformers_library().AutoModelForCausalLM.from_pretrained(
        directory,
        config=made,
        attn_implementation=attention_of(config),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    for what, key in (("lacks", "missing_keys"), ("has the unexpected", "unexpected_keys")):
        if names := sorted(report[key]):
            raise ValueError(
                f"{directory} {what} tensor {names[0]} ({len(names)} in all) by its config.json; "
                "config.json and weights must be of the same model"
            )
    if PACKING_FIELD not in given:
        config = replace(config, packing=find_packing(network.eval(), config))
    check_packing(network.eval(), config)
    model = ForeignModel(network, config)
    logger.info(
        "%s is computed by transformers, documents packed by %s%s: %s",
        directory,
        config.packing,
        _dropouts(config),
        why_not_native(config),
    )
    return model


def _recorded(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in (PACKING_FIELD,) if name in given}


def restore_foreign(model: nn.Module, config: ForeignConfig, directory: Path, source: str) -> None:
    """Copy the weights of a directory that ``write_foreign`` wrote, one tensor at a time.

    Raises:
        ValueError: The directory holds another model than ``config``; names the field.
        CorruptError: A tensor is not the model's; ``source`` says whose they are.
    """
    path = directory / "config.json"
    found = foreign_config_of(json.loads(path.read_bytes()), path)
    there = {**json.loads(found.fields), "packing": found.packing}
    wanted = {**json.loads(config.fields), "packing": config.packing}
    changed = [n for n in sorted({*there, *wanted}) if there.get(n) != wanted.get(n)]
    if changed:
        raise ValueError(
            f"the plan's model must be that of {source}: {changed[0]} is "
            f"{there.get(changed[0])!r} there, {wanted.get(changed[0])!r} in the plan"
        )
    assert isinstance(model, ForeignModel)
    own, stored = weights_of(model.network), stored_tensors(directory)
    check_fit(own, {name: tensor.shape for name, tensor in stored.items()}, source)
    for name, tensor in own.items():
        fill(tensor, read_tensor(stored[name]))


def write_foreign(directory: Path, model: ForeignModel, *, start_id: int, end_id: int) -> None:
    """Write config.json, generation_config.json and the weights, as transformers reads them.

    Not atomic: write into a fresh directory and publish it when this returned. Safe to retry.
    """
    directory.mkdir(parents=True, exist_ok=True)
    architectures = [type(model.network).__name__]
    fields = fields_of(model.config, start_id=start_id, end_id=end_id)
    _write_json(directory / "config.json", {**fields, "architectures": architectures})
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": start_id, "eos_token_id": end_id, "do_sample": False},
    )
    write_weights(directory, weights_of(model.network))


def _dropouts(config: ForeignConfig) -> str:
    """The dropout that config.json asks for and training leaves out, in words."""
    fields = cast("dict[str, Any]", json.loads(config.fields))
    asked = {
        name: value
        for name, value in fields.items()
        if "drop" in name and isinstance(value, float) and value
    }
    listed = ", ".join(f"{name} {value:g}" for name, value in asked.items())
    return f", without the dropout of config.json ({listed})" if asked else ""


def _refuse_files(directory: Path) -> None:
    if (directory / "adapter_config.json").exists():
        raise ValueError(
            f"{directory} holds an adapter (adapter_config.json): expected a whole model; merge "
            "the adapter into its base model and save that"
        )
    for name, tensor in stored_tensors(directory).items():
        if tensor.dtype not in _READABLE_DTYPES and name.endswith("weight"):
            raise ValueError(
                f"{directory}: tensor {name} is {tensor.dtype}, expected "
                f"{' or '.join(_READABLE_DTYPES)}; give the model without quantization"
            )


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
