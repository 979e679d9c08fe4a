"""What ``transformers`` knows of the families of models that it computes; imported late."""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any, cast

from training.config import ForeignConfig
from training.foreign.config import PACKING_FIELD, needs_eager_attention
from training.foreign.torchvision_operators import declare_missing_operators

# Written by other versions, for training, generation or tokenizers; transformers reads none.
_HARMLESS_FIELDS = frozenset(
    {
        "_attn_implementation_autoset",
        "architectures",
        "cache_implementation",
        "dtype",
        "gradient_checkpointing",
        "model_max_length",
        "n_ctx",
        PACKING_FIELD,
        "output_past",
        "seq_length",
        "torch_dtype",
        "unk_token_id",
    }
)
# Unknown to some families of transformers, because it computes nothing else than this.
_NEUTRAL_VALUES: dict[str, Any] = {
    "attention_softmax_in_fp32": True,
    "auto_map": None,
    "mlp_type": "default",
    "n_inner": None,
    "rotary": True,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
}
# Of every configuration, and without effect on some families only.
_KEPT_FIELDS = ("model_type", "tie_word_embeddings")


def transformers_library() -> Any:
    """The library; imported late, because the core runs without it."""
    declare_missing_operators()
    importlib.import_module("transformers.modeling_utils")
    return importlib.import_module("transformers")


def attention_of(config: ForeignConfig) -> str | None:
    """Which attention to ask transformers for; None is its own choice for the family."""
    return "eager" if needs_eager_attention(json.loads(config.fields)) else None


def config_object(fields: dict[str, Any], path: Path) -> Any:
    """The family's configuration in transformers.

    Raises:
        ValueError: There is no such family of causal models, or it does not know a field.
    """
    transformers = transformers_library()
    model_type = fields["model_type"]
    families = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type not in families:
        raise ValueError(
            f"{path}: model_type {model_type!r} is no causal language model that transformers "
            f"{transformers.__version__} computes; choose another base model"
        )
    kind = transformers.CONFIG_MAPPING[model_type]
    default = kind()
    known = {*inspect.signature(kind.__init__).parameters, *default.to_dict(), *kind.attribute_map}
    kept = {name: fields[name] for name in fields.keys() & known - {"dtype", "torch_dtype"}}
    unknown = [
        name
        for name in sorted(fields.keys() - known - _HARMLESS_FIELDS)
        if not _is_neutral(name, fields[name])
    ]
    if unknown:
        raise ValueError(
            f"{path}: field {unknown[0]!r} = {json.dumps(fields[unknown[0]])} is not known to "
            f"{kind.__name__} of transformers {transformers.__version__} and would be ignored; "
            "remove it if it does not change what the model computes, or choose another base model"
        )
    return kind.from_dict(kept)


def all_fields(made: Any) -> dict[str, Any]:
    """Every field of the family, those that config.json leaves to a default too.

    Defaults change between versions; a model must not change with them.
    """
    common = transformers_library().PretrainedConfig().to_dict()
    fields = {
        name: value
        for name, value in made.to_dict().items()
        if name in _KEPT_FIELDS or name not in common or value != common[name]
    }
    return cast("dict[str, Any]", json.loads(json.dumps(fields)))


def _is_neutral(name: str, value: Any) -> bool:
    # No dropout acts, and what is summarised is no token.
    is_idle = "drop" in name or name.startswith("summary_")
    return is_idle or (name in _NEUTRAL_VALUES and value == _NEUTRAL_VALUES[name])
