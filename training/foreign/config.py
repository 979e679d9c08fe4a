"""What a config.json says, for the causal models that ``transformers`` computes.

Needs no transformers, so that a scheduler can plan an update. What only transformers knows, whether
it has a family and which fields that family reads, ``training.foreign.model`` asks it when a model
is imported.
"""

import json
from pathlib import Path
from typing import Any, cast

from storage.manifest import canonical_json
from training.config import ForeignConfig, ModelConfig
from training.hub.config import config_from

PACKING_FIELD = "document_packing"
"""Of the config.json that is written here; transformers does not heed it."""
_FREE_FIELDS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        PACKING_FIELD,
        "dtype",
        "eos_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""About files, precision of storage and generation; no logit depends on them."""
_LENGTH_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")
_NO_LIMIT = 1_000_000_000
_PARTS_OF_A_LARGER_MODEL = ("text_config", "vision_config", "audio_config", "encoder", "decoder")
_EAGER_FIELDS = (
    "attn_logit_softcapping",
    "reorder_and_upcast_attn",
    "scale_attn_by_inverse_layer_idx",
)


def model_config_of(fields: dict[str, Any], path: Path) -> ModelConfig | ForeignConfig:
    """The architecture that a config.json describes: native if we compute it, else foreign.

    Args:
        fields: Its content.
        path: Where it lies, for messages.

    Raises:
        ValueError: Neither is possible; names the field.
    """
    try:
        return config_from(fields, path)
    except ValueError:
        return foreign_config_of(fields, path)


def why_not_native(config: ForeignConfig) -> str:
    """What of the architecture the native decoder does not compute, in a sentence."""
    fields = {"model_type": config.model_type, **json.loads(config.fields)}
    try:
        config_from(fields, Path("config.json"))
    except ValueError as refusal:
        return str(refusal)
    return "the native decoder has learned to compute it since"


def foreign_config_of(fields: dict[str, Any], path: Path) -> ForeignConfig:
    """The architecture, to be computed by transformers.

    Raises:
        ValueError: It could not be trained exactly, or its code would have to be loaded; names the
            field.
    """
    refuse_by_name(fields, path)
    kept = {name: value for name, value in fields.items() if name not in _FREE_FIELDS}
    for name, kind in (("model_type", str), ("vocab_size", int)):
        if not isinstance(kept.get(name), kind):
            raise ValueError(  # noqa: TRY004  what is read here is data
                f"{path}: {name} must be a {kind.__name__}, found {kept.get(name)!r}; copy the "
                "model again"
            )
    return ForeignConfig(
        model_type=kept["model_type"],
        vocab_size=kept["vocab_size"],
        max_position_embeddings=longest_sequence(kept),
        # One document a row is right for every causal model, only slower.
        packing=fields.get(PACKING_FIELD, "rows"),
        fields=canonical_json(kept).decode(),
    )


def longest_sequence(fields: dict[str, Any]) -> int:
    """Positions that a config.json gives the model, a very large number where there is no limit."""
    found = (fields.get(name) for name in _LENGTH_FIELDS)
    return next((length for length in found if isinstance(length, int)), _NO_LIMIT)


def needs_eager_attention(fields: dict[str, Any]) -> bool:
    """Whether only the plain attention of transformers heeds all fields; the fused ignores some."""
    return any(fields.get(name) for name in _EAGER_FIELDS)


def fields_of(config: ForeignConfig, *, start_id: int, end_id: int) -> dict[str, Any]:
    """Content of the config.json with which transformers builds the same model."""
    fields = cast("dict[str, Any]", json.loads(config.fields))
    return {
        **fields,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "torch_dtype": "float32",
        PACKING_FIELD: config.packing,
    }


def refuse_by_name(fields: dict[str, Any], path: Path) -> None:
    """Raise ValueError for a config.json that no model of ours may have, whatever its family."""
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type"))
    experts = [name for name, value in fields.items() if "expert" in name and _is_above_1(value)]
    parts = [name for name in _PARTS_OF_A_LARGER_MODEL if isinstance(fields.get(name), dict)]
    refusals = (
        (
            "auto_map",
            fields.get("auto_map"),
            "names code beside the model, which is never run (remove it where the class of "
            "transformers is meant)",
        ),
        ("quantization_config", fields.get("quantization_config"), "cannot be trained exactly"),
        ("is_encoder_decoder", fields.get("is_encoder_decoder"), "is no causal language model"),
        ("add_cross_attention", fields.get("add_cross_attention"), "attends to an encoder"),
        (parts[0] if parts else "", parts, "is a part of a larger model than a text model"),
        (experts[0] if experts else "", experts, "needs a router's own loss, not computed here"),
        (
            "rope_scaling",
            rope_type in ("dynamic", "longrope", "su"),
            "turns a document by angles that depend on the other documents of its batch",
        ),
    )
    for name, is_refused, reason in refusals:
        if is_refused:
            raise ValueError(
                f"{path}: {name} = {json.dumps(fields.get(name))} {reason}; choose another base "
                "model"
            )


def _is_above_1(value: Any) -> bool:
    return isinstance(value, int) and value > 1
