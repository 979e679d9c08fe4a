"""The families of models that ``training.decoder.model`` computes, and what tells one from another.

A family is what ``model_type`` says in a config.json. The decoder itself knows no families: it
builds what the fields of ``ModelConfig`` say, and each family is a set of those fields. So the
family of an architecture follows from its fields, and a combination that no family has, which
nobody else could load, is refused when the configuration is made and not when it is exported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.decoder.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One ``model_type``."""

    architecture: str
    """The class of transformers that computes it."""
    mark: str
    """What of a ``ModelConfig`` makes it one of this family, in words."""
    fixed: Mapping[str, Any]
    """Fields of ``ModelConfig`` that are the same in the whole family."""
    switches: frozenset[str] = frozenset()
    """Fields of config.json that only some families heed. Elsewhere they must be off."""
    rope_types: frozenset[str] = frozenset({"linear", "llama3"})
    """Kinds of scaled rotary positions that transformers computes for it."""
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What transformers takes where config.json is silent and its default is not ours."""


_PRE_NORM = {"norm_position": "before", "qk_norm": None}
_NO_BIAS = {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
_NO_WINDOW = {"sliding_window": None}
_WINDOW_SWITCHES = frozenset({"sliding_window", "use_sliding_window", "max_window_layers"})

FAMILIES: dict[str, Family] = {
    # Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; SmolLM is one of them.
    "llama": Family(
        architecture="LlamaForCausalLM",
        mark="the absence of qk_norm, of sliding_window and of norms after a block",
        fixed={**_PRE_NORM, **_NO_WINDOW},
        switches=frozenset({"attention_bias", "mlp_bias"}),
        defaults={"rms_norm_eps": 1e-6},
    ),
    # Jiang et al. 2023, arXiv:2310.06825. Without a window it is the computation of a Llama.
    "mistral": Family(
        architecture="MistralForCausalLM",
        mark="sliding_window without biases",
        fixed={**_PRE_NORM, **_NO_BIAS, "num_full_attention_layers": 0},
        switches=frozenset({"sliding_window"}),
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131_072,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
    ),
    # Yang et al. 2024, arXiv:2407.10671.
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        mark="qkv_bias without output_bias",
        fixed={**_PRE_NORM, "qkv_bias": True, "output_bias": False, "mlp_bias": False},
        switches=_WINDOW_SWITCHES,
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
    # Yang et al. 2025, arXiv:2505.09388.
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        mark="qk_norm 'head'",
        fixed={"norm_position": "before", "qk_norm": "head", "mlp_bias": False},
        switches=_WINDOW_SWITCHES | {"attention_bias"},
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
    # OLMo et al. 2025, arXiv:2501.00656.
    "olmo2": Family(
        architecture="Olmo2ForCausalLM",
        mark="qk_norm 'width' or norm_position 'after'",
        fixed={"norm_position": "after", "qk_norm": "width", "mlp_bias": False, **_NO_WINDOW},
        switches=frozenset({"attention_bias"}),
        rope_types=frozenset({"linear"}),
        defaults={"rms_norm_eps": 1e-5},
    ),
}


def family_of(config: "ModelConfig") -> str:
    """The ``model_type`` of an architecture: the plainest that computes it.

    Raises:
        ValueError: No family has this combination; names the field that does not fit the others.
    """
    name = _candidate(config)
    family = FAMILIES[name]
    expected = dict(family.fixed)
    if name != "qwen2":
        expected.setdefault("output_bias", config.qkv_bias)
    for field_name, value in expected.items():
        found = getattr(config, field_name)
        if found != value:
            raise ValueError(
                f"{field_name} {found!r} goes with no model that has {family.mark} (the "
                f"{name} family): set {field_name} to {value!r}, or change what makes it one"
            )
    if config.rope_scaling is not None and config.rope_scaling.kind not in family.rope_types:
        raise ValueError(
            f"rope_scaling.kind {config.rope_scaling.kind!r} goes with no model that has "
            f"{family.mark} (the {name} family): expected "
            f"{' or '.join(sorted(family.rope_types))}, or no rope_scaling"
        )
    return name


def _candidate(config: "ModelConfig") -> str:
    if config.norm_position == "after" or config.qk_norm == "width":
        return "olmo2"
    if config.qk_norm == "head":
        return "qwen3"
    if config.qkv_bias and not config.output_bias:
        return "qwen2"
    if config.sliding_window is not None:
        return "mistral"
    return "llama"
