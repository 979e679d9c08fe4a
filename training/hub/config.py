"""What a Hugging Face config.json says, for the families that ``training.decoder.model`` computes.

Every field is either understood, known to be harmless, or refused by name: a field that is ignored
is a model that computes something else than its author meant.
"""

import json
from pathlib import Path
from typing import Any

from training.config import ModelConfig
from training.decoder.families import FAMILIES, Family
from training.hub.positions import rope_fields, rope_of, window_fields, window_of

_SHAPE_FIELDS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        # By ``training.hub.positions``.
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "layer_types",
    }
)
# About files, caches, generation or training; none of them changes a logit.
_HARMLESS_FIELDS = frozenset(
    {
        "model_type",
        "architectures",
        "_name_or_path",
        "_attn_implementation_autoset",
        "transformers_version",
        "transformers.js_config",
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
        "is_llama_config",
    }
)
# Fields that would change the computation, with the values at which they do not. A family that
# heeds one of them has it among its switches.
_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
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
_WINDOW_FIELDS = ("sliding_window", "num_full_attention_layers")
"""Of ``ModelConfig``; ``window_of`` finds them."""


def config_from(fields: dict[str, Any], path: Path) -> ModelConfig:
    """The architecture that a config.json describes.

    Args:
        fields: Its content.
        path: Where it lies, for messages.

    Raises:
        ValueError: ``Decoder`` would not compute exactly what transformers computes; names the
            field.
    """
    family = FAMILIES.get(str(fields.get("model_type")))
    if family is None:
        raise ValueError(
            f"{path}: model_type {fields.get('model_type')!r} is not supported: expected one of "
            f"{', '.join(FAMILIES)}; use a base model of these families"
        )
    _refuse_what_we_do_not_compute(fields, family, path)
    known = {**family.defaults, **{k: v for k, v in fields.items() if v is not None}}
    try:
        num_layers, num_heads = known["num_hidden_layers"], known["num_attention_heads"]
        rope_theta, rope_scaling = rope_of(fields, family, path)
        sliding_window, num_full_attention_layers = window_of(fields, family, num_layers, path)
        return ModelConfig(
            vocab_size=known["vocab_size"],
            hidden_size=known["hidden_size"],
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, family, num_heads),
            intermediate_size=known["intermediate_size"],
            head_dim=known.get("head_dim"),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            rms_norm_eps=known["rms_norm_eps"],
            tie_embeddings=known.get("tie_word_embeddings", False),
            max_position_embeddings=known.get("max_position_embeddings", 2048),
            initializer_range=known.get("initializer_range", 0.02),
            sliding_window=sliding_window,
            num_full_attention_layers=num_full_attention_layers,
            **_features(fields, family),
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: field {error.args[0]!r} is missing; add it, its default differs between "
            "versions"
        ) from error


def fields_of(config: ModelConfig, *, start_id: int, end_id: int) -> dict[str, Any]:
    """Content of the config.json with which transformers builds the same model."""
    name = config.family
    family = FAMILIES[name]
    fields: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "attention_dropout": 0.0,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "use_cache": True,
        **rope_fields(config),
        **window_fields(config, family),
    }
    if config.head_dim is not None or "head_dim" in family.defaults:
        fields["head_dim"] = config.head_width
    if "attention_bias" in family.switches:
        fields["attention_bias"] = config.output_bias
    if "mlp_bias" in family.switches:
        fields["mlp_bias"] = config.mlp_bias
    if name == "olmo2":
        # transformers would take token 1 for padding, and generation would not look at it.
        fields["pad_token_id"] = None
    return fields


def token_ids_of(fields: dict[str, Any]) -> dict[str, int]:
    """``bos`` and ``eos``, each where config.json has it; the first where it lists several."""
    found = {name: fields.get(f"{name}_token_id") for name in ("bos", "eos")}
    firsts = {
        name: ids[0] if isinstance(ids, list) else ids for name, ids in found.items() if ids != []
    }
    return {name: token_id for name, token_id in firsts.items() if token_id is not None}


def _refuse_what_we_do_not_compute(fields: dict[str, Any], family: Family, path: Path) -> None:
    understood = _SHAPE_FIELDS | _HARMLESS_FIELDS | family.switches
    for name, value in fields.items():
        neutral = None if name in family.switches else _NEUTRAL_VALUES.get(name)
        if neutral is not None and value not in neutral:
            raise ValueError(
                f"{path}: {name} = {json.dumps(value)} changes what the model computes and is not "
                f"supported: expected {' or '.join(json.dumps(v) for v in neutral)}; choose "
                "another base model"
            )
        if neutral is None and name not in understood:
            raise ValueError(
                f"{path}: field {name!r} = {json.dumps(value)} is not known, and may change what "
                "the model computes; remove it if it does not, or choose another base model"
            )


def _num_kv_heads(fields: dict[str, Any], family: Family, num_heads: int) -> int:
    # null says as many as query heads, silence says the family's default.
    asked = fields.get("num_key_value_heads", family.defaults.get("num_key_value_heads"))
    return num_heads if asked is None else asked


def _features(fields: dict[str, Any], family: Family) -> dict[str, Any]:
    """What the family has always, and what its switches say."""
    always = {name: value for name, value in family.fixed.items() if name not in _WINDOW_FIELDS}
    if "attention_bias" in family.switches:
        bias = bool(fields.get("attention_bias", False))
        always |= {"qkv_bias": bias, "output_bias": bias}
    if "mlp_bias" in family.switches:
        always["mlp_bias"] = bool(fields.get("mlp_bias", False))
    return always
