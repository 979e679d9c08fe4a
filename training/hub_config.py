"""What a Hugging Face config.json says, for the architectures that ``training.model`` computes.

Every field is either understood, known to be harmless, or refused by name: a field that is ignored
is a model that computes something else than its author meant.
"""

import json
from pathlib import Path
from typing import Any, cast

from training.config import ModelConfig

_SHAPE_FIELDS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
    }
)
# About files, caches, generation or training; none of them changes a logit.
_HARMLESS_FIELDS = frozenset(
    {
        "model_type",
        "architectures",
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "pad_token_id",
        "unk_token_id",
        "attention_dropout",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "max_window_layers",
        "pretraining_tp",
        # Looked at below.
        "sliding_window",
        "layer_types",
        "rope_parameters",
    }
)
# Fields that would change the computation, with the values at which they do not.
_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (None, 1.0),
    "quantization_config": (None,),
    "logits_soft_cap": (None,),
    "is_decoder": (True, False),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "rope_interleaved": (False,),
    "auto_map": (None,),
    "mlp_only_layers": (None, []),
}
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# What transformers takes where config.json is silent, for the fields whose default is not ours.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "qwen2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
}


def config_from(fields: dict[str, Any], path: Path) -> ModelConfig:
    """The architecture that a config.json describes.

    Args:
        fields: Its content.
        path: Where it lies, for messages.

    Raises:
        ValueError: ``Decoder`` would not compute exactly what transformers computes; names the
            field.
    """
    model_type = fields.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise ValueError(
            f"{path}: model_type {model_type!r} is not supported: expected one of "
            f"{', '.join(_ARCHITECTURES)}; use a base model of these families"
        )
    _refuse_what_we_do_not_compute(fields, model_type, path)
    given = fields | (fields.get("rope_parameters") or {})
    known = _DEFAULTS[model_type] | {k: v for k, v in given.items() if v is not None}
    try:
        return ModelConfig(
            vocab_size=known["vocab_size"],
            hidden_size=known["hidden_size"],
            num_layers=known["num_hidden_layers"],
            num_heads=known["num_attention_heads"],
            num_kv_heads=known.get("num_key_value_heads", known["num_attention_heads"]),
            intermediate_size=known["intermediate_size"],
            head_dim=known.get("head_dim"),
            rope_theta=float(known.get("rope_theta", 10_000.0)),
            rms_norm_eps=known["rms_norm_eps"],
            tie_embeddings=known.get("tie_word_embeddings", False),
            qkv_bias=model_type == "qwen2",
            max_position_embeddings=known["max_position_embeddings"],
            initializer_range=known.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: field {error.args[0]!r} is missing; add it, its default differs between "
            "versions"
        ) from error


def _refuse_what_we_do_not_compute(fields: dict[str, Any], model_type: str, path: Path) -> None:
    for name, value in fields.items():
        neutral = _NEUTRAL_VALUES.get(name)
        if neutral is not None and value not in neutral:
            raise ValueError(
                f"{path}: {name} = {json.dumps(value)} changes what the model computes and is not "
                f"supported: expected {' or '.join(json.dumps(v) for v in neutral)}; choose "
                "another base model"
            )
        if neutral is None and name not in _SHAPE_FIELDS | _HARMLESS_FIELDS:
            raise ValueError(
                f"{path}: field {name!r} = {json.dumps(value)} is not known, and may change what "
                "the model computes; remove it if it does not, or choose another base model"
            )
    rope = cast("dict[str, Any]", fields.get("rope_parameters") or {})
    if rope.get("rope_type", "default") != "default" or rope.keys() - {"rope_type", "rope_theta"}:
        raise ValueError(
            f"{path}: rope_parameters = {json.dumps(rope)} is not supported: expected rope_type "
            "default and rope_theta alone; choose another base model"
        )
    kinds: set[str] = set(fields.get("layer_types") or ())
    if kinds - {"full_attention"}:
        raise ValueError(
            f"{path}: layer_types has {', '.join(sorted(kinds - {'full_attention'}))}, which is "
            "not supported: expected full_attention in every layer; choose another base model"
        )
    # Qwen2 writes a window that use_sliding_window switches on; Llama knows neither.
    if model_type == "llama" and fields.get("sliding_window") is not None:
        raise ValueError(
            f"{path}: sliding_window = {fields['sliding_window']} is not supported: expected null; "
            "choose another base model"
        )


def fields_of(config: ModelConfig, *, start_id: int, end_id: int) -> dict[str, Any]:
    """Content of the config.json with which transformers builds the same model."""
    model_type = "qwen2" if config.qkv_bias else "llama"
    fields: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "attention_dropout": 0.0,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "use_cache": True,
    }
    if config.head_dim is not None:
        fields["head_dim"] = config.head_dim
    if model_type == "llama":
        fields |= {"attention_bias": False, "mlp_bias": False}
    else:
        fields["use_sliding_window"] = False
    return fields


def token_ids_of(fields: dict[str, Any]) -> dict[str, int]:
    """``bos`` and ``eos``, each where config.json has it; the first where it lists several."""
    found = {name: fields.get(f"{name}_token_id") for name in ("bos", "eos")}
    firsts = {
        name: ids[0] if isinstance(ids, list) else ids for name, ids in found.items() if ids != []
    }
    return {name: token_id for name, token_id in firsts.items() if token_id is not None}
