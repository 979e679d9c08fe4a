"""Rotary positions and sliding windows in a config.json, which has several spellings of both."""

import json
from pathlib import Path
from typing import Any, cast

from training.config import ModelConfig
from training.decoder.config import RopeScaling
from training.decoder.families import Family

_DEFAULT_THETA = 10_000.0
_LLAMA3_FIELDS = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_SCALING_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", *_LLAMA3_FIELDS),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def rope_of(fields: dict[str, Any], family: Family, path: Path) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary positions.

    They stand in ``rope_theta`` and ``rope_scaling``, or since transformers 5 together in
    ``rope_parameters``; where both are given they must agree.

    Raises:
        ValueError: Names the field that is not computed, missing, or said twice.
    """
    together = dict(cast("dict[str, Any]", fields.get("rope_parameters") or {}))
    thetas = [together.pop("rope_theta", None), fields.get("rope_theta")]
    given = [theta for theta in thetas if theta is not None] or [_DEFAULT_THETA]
    if len(set(given)) > 1:
        raise ValueError(
            f"{path}: rope_theta is {given[1]} but {given[0]} in rope_parameters; remove the one "
            "that the model was not trained with"
        )
    scalings = [
        _scaling_of(together, "rope_parameters", family, path),
        _scaling_of(fields.get("rope_scaling") or {}, "rope_scaling", family, path),
    ]
    if fields.get("rope_parameters") and fields.get("rope_scaling") and scalings[0] != scalings[1]:
        raise ValueError(
            f"{path}: rope_scaling and rope_parameters differ; remove the one that the model was "
            "not trained with"
        )
    return float(given[0]), scalings[0] or scalings[1]


def rope_fields(config: ModelConfig) -> dict[str, Any]:
    """``rope_theta``, and ``rope_scaling`` where there is one."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_theta}
    # The configuration of OLMo 2 in transformers 4 knows the older key alone.
    key = "type" if config.family == "olmo2" else "rope_type"
    values = {name: getattr(scaling, name) for name in _SCALING_FIELDS[scaling.kind]}
    return {"rope_theta": config.rope_theta, "rope_scaling": {key: scaling.kind, **values}}


def window_of(
    fields: dict[str, Any], family: Family, num_layers: int, path: Path
) -> tuple[int | None, int]:
    """Tokens of the sliding window, and how many first layers do without; (None, 0): all do.

    Raises:
        ValueError: ``layer_types`` says something else than the other fields, or mixes layers in a
            way that is not computed.
    """
    window = None
    if "sliding_window" in family.switches:
        window = fields.get("sliding_window", family.defaults["sliding_window"])
    num_full = 0
    if "use_sliding_window" in family.switches:
        if not fields.get("use_sliding_window", False):
            window = None
        num_full = fields.get("max_window_layers", family.defaults["max_window_layers"])
    if window is None or num_full >= num_layers:
        window, num_full = None, num_layers
    expected = [_FULL] * num_full + [_SLIDING] * (num_layers - num_full)
    kinds = fields.get("layer_types") or expected
    if kinds != expected:
        # In the families with max_window_layers the list goes before it.
        window, num_full = _from_layer_types(kinds, fields, family, num_layers, path)
    return (None, 0) if window is None or num_full == num_layers else (window, num_full)


def window_fields(config: ModelConfig, family: Family) -> dict[str, Any]:
    """What the family says about windows."""
    if "use_sliding_window" not in family.switches:
        has_window = "sliding_window" in family.switches
        return {"sliding_window": config.sliding_window} if has_window else {}
    if config.sliding_window is None:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": config.num_full_attention_layers,
    }


def _scaling_of(
    spelled: dict[str, Any], where: str, family: Family, path: Path
) -> RopeScaling | None:
    rest = dict(spelled)
    kinds = {rest.pop(key) for key in ("rope_type", "type") if key in rest} or {"default"}
    kind = kinds.pop()
    # Other than 1 it is refused as a key that is not known.
    if rest.get("partial_rotary_factor") == 1.0:
        del rest["partial_rotary_factor"]
    names = _SCALING_FIELDS.get(kind)
    if kinds or names is None or (names and kind not in family.rope_types):
        raise ValueError(
            f"{path}: {where} = {json.dumps(spelled)} is not supported: expected rope_type "
            f"{' or '.join(['default', *sorted(family.rope_types)])}; choose another base model"
        )
    if rest.keys() != set(names):
        odd = min(rest.keys() ^ set(names))
        raise ValueError(
            f"{path}: {where} = {json.dumps(spelled)} is not supported: expected "
            f"{', '.join(('rope_type', *names))} of a model with rope_type {kind}, and {odd} is "
            f"{'not one of them' if odd in rest else 'missing'}; choose another base model"
        )
    if kind == "default":
        return None
    return RopeScaling(kind=kind, factor=float(rest.pop("factor")), **rest)


def _from_layer_types(
    kinds: list[str], fields: dict[str, Any], family: Family, num_layers: int, path: Path
) -> tuple[int | None, int]:
    num_full = kinds.count(_FULL)
    window = None
    if fields.get("use_sliding_window") and "use_sliding_window" in family.switches:
        window = fields.get("sliding_window", family.defaults["sliding_window"])
    in_order = [_FULL] * num_full + [_SLIDING] * (num_layers - num_full)
    # Without max_window_layers, no layer of the family can differ from the others.
    is_free = "max_window_layers" in family.switches
    if kinds != in_order or not is_free or (num_full < num_layers and window is None):
        shown = " or ".join(sorted(set(kinds)))
        raise ValueError(
            f"{path}: layer_types ({len(kinds)} layers of {shown}) is not supported beside the "
            f"other fields: expected {num_layers}, {_FULL} first and {_SLIDING} in the layers that "
            "sliding_window holds for; choose another base model"
        )
    return window, num_full
