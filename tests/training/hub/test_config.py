import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.families import FAMILIES as VARIANTS
from tests.training.families import LLAMA3, config_of
from tests.training.published_configs import PUBLISHED
from training.config import ModelConfig
from training.decoder.config import RopeScaling
from training.decoder.families import FAMILIES
from training.foreign.torchvision_operators import declare_missing_operators
from training.hub.config import config_from, fields_of

PATH = Path("config.json")
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "intermediate_size": 48,
}


def config_in_transformers(fields: dict[str, Any]) -> Any:
    declare_missing_operators()
    transformers = importlib.import_module("transformers")
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    return transformers.AutoConfig.for_model(fields["model_type"], **rest)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_understood(name: str) -> None:
    fields, expected = PUBLISHED[name]
    config = config_from(fields, PATH)
    assert {field: getattr(config, field) for field in expected} == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_said_of_an_architecture_is_understood(variant: str) -> None:
    config = config_of(variant)
    said = json.loads(json.dumps(fields_of(config, start_id=0, end_id=2)))
    again = config_from(said, PATH)

    assert said["model_type"] == variant.split(maxsplit=1)[0]
    assert fields_of(again, start_id=0, end_id=2) == said
    assert [again.window_of(layer) for layer in range(2)] == [
        config.window_of(layer) for layer in range(2)
    ]
    assert again.rope_scaling == config.rope_scaling


@pytest.mark.parametrize("model_type", FAMILIES)
def test_where_a_file_is_silent_we_take_what_transformers_takes(model_type: str) -> None:
    fields = {"model_type": model_type, **SHAPE}
    ours, theirs = config_from(fields, PATH), config_in_transformers(fields)

    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_width == (getattr(theirs, "head_dim", None) or 4096 // 32)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_theta
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.initializer_range == theirs.initializer_range
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)


def test_null_key_value_heads_are_as_many_as_query_heads() -> None:
    fields = {"model_type": "mistral", **SHAPE, "num_key_value_heads": None}
    assert config_from(fields, PATH).num_kv_heads == 32
    assert config_in_transformers(fields).num_key_value_heads == 32


def test_a_mistral_without_a_window_is_the_computation_of_a_llama() -> None:
    config = config_from({"model_type": "mistral", **SHAPE, "sliding_window": None}, PATH)
    assert config.sliding_window is None
    assert config.family == "llama"


FULL, SLIDING = "full_attention", "sliding_attention"
MIXES: list[list[str] | None] = [
    None,
    [FULL] * 4,
    [SLIDING] * 4,
    [FULL, SLIDING, SLIDING, SLIDING],
    [FULL, SLIDING, FULL, SLIDING],
]


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "switch", [{}, {"use_sliding_window": True}, {"use_sliding_window": False}]
)
@pytest.mark.parametrize("layers", [{}, {"max_window_layers": 0}, {"max_window_layers": 2}])
def test_windows_of_qwen_are_those_of_transformers(
    model_type: str, switch: dict[str, Any], layers: dict[str, Any]
) -> None:
    """Or refused by name: a mixed order, and a window that is switched off but asked for."""
    for window, kinds in itertools.product([{}, {"sliding_window": 9}], MIXES):
        mix = {"layer_types": kinds} if kinds else {}
        fields = {"model_type": model_type, **SHAPE, **switch, **layers, **window, **mix}
        theirs = config_in_transformers(fields)
        expected = [theirs.sliding_window if k == SLIDING else None for k in theirs.layer_types]
        is_computed = theirs.sliding_window is not None or SLIDING not in theirs.layer_types
        if is_computed and theirs.layer_types == sorted(theirs.layer_types):
            ours = config_from(fields, PATH)
            assert [ours.window_of(layer) for layer in range(4)] == expected, fields
        else:
            with pytest.raises(ValueError, match=r"config\.json: layer_types .* not supported"):
                config_from(fields, PATH)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model_type": "mistral", "layer_types": [FULL] * 4}, "layer_types"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias"),
        ({"model_type": "qwen2", "attention_bias": True}, "attention_bias"),
        ({"model_type": "qwen2", "use_mrope": True}, "use_mrope"),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "olmo2", "sliding_window": 4}, "sliding_window"),
        ({"model_type": "olmo2", "layer_types": [SLIDING] * 4}, "layer_types"),
        ({"model_type": "olmo2", "clip_qkv": 8.0}, "field 'clip_qkv'"),
        ({"model_type": "llama", "layer_types": [FULL] * 3}, "layer_types"),
        (
            {"model_type": "olmo2", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling .*expected rope_type default or linear",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"rope_type": "linear"}},
            "rope_scaling .*factor is missing",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "type": "llama3"}},
            "rope_scaling .*expected rope_type",
        ),
        (
            {"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters .*partial_rotary_factor is not one of them",
        ),
        (
            {
                "model_type": "llama",
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            "rope_scaling and rope_parameters differ",
        ),
        (
            {"model_type": "llama", "rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}},
            "rope_theta is 10000.0 but 100000.0 in rope_parameters",
        ),
    ],
)
def test_what_a_family_does_not_compute_is_refused_by_name(
    fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: {what}"):
        config_from({**SHAPE, **fields}, PATH)


def test_both_spellings_of_rotary_positions_say_the_same() -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    base = {"model_type": "llama", **SHAPE}
    spellings: list[dict[str, Any]] = [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **scaling}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}},
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", **scaling},
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling},
        },
    ]
    found = {config_from({**base, **spelling}, PATH) for spelling in spellings}
    assert len(found) == 1
    config = found.pop()
    assert (config.rope_theta, config.rope_scaling) == (500_000.0, LLAMA3)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"qk_norm": "width"}, "norm_position 'before' .*olmo2.* set norm_position to 'after'"),
        ({"norm_position": "after"}, "qk_norm None .*olmo2.* set qk_norm to 'width'"),
        ({"qk_norm": "head", "mlp_bias": True}, "mlp_bias True .*qwen3.* set mlp_bias to False"),
        ({"qk_norm": "head", "qkv_bias": True}, "output_bias False .*qwen3.* to True"),
        ({"output_bias": True}, "output_bias True .*llama.* set output_bias to False"),
        ({"sliding_window": 8, "mlp_bias": True}, "mlp_bias True .*mistral"),
        ({"sliding_window": 8, "num_full_attention_layers": 1}, "num_full.* 1 .*mistral"),
        ({"num_full_attention_layers": 1}, "there is no sliding_window"),
        (
            {"qk_norm": "head", "sliding_window": 8, "num_full_attention_layers": 2},
            "leaves no layer of 2 to sliding_window",
        ),
        (
            {"qk_norm": "width", "norm_position": "after", "rope_scaling": LLAMA3},
            r"rope_scaling\.kind 'llama3' .*olmo2.* expected linear",
        ),
    ],
)
def test_an_architecture_that_nobody_else_could_load_is_refused(
    changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        config_of("llama gqa tied", **changes)


@pytest.mark.parametrize(
    ("scaling", "what"),
    [
        ({"kind": "linear", "factor": 2.0, "low_freq_factor": 1.0}, "leave them out"),
        ({"kind": "llama3", "factor": 2.0}, "set all three"),
        (
            {
                "kind": "llama3",
                "factor": 2.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "low_freq_factor 4 must be below high_freq_factor 4",
        ),
    ],
)
def test_a_scaling_that_says_too_much_or_too_little_is_refused(
    scaling: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        RopeScaling(**scaling)


def test_every_field_of_an_architecture_is_said_or_has_no_part_in_the_computation() -> None:
    """A field added to ``ModelConfig`` without its spelling would be lost in an export."""
    silent = {"initializer_range", "max_position_embeddings", "head_dim"}
    config = config_of("qwen3 biases, window", num_full_attention_layers=1)
    again = config_from(fields_of(config, start_id=0, end_id=0), PATH)
    for name in ModelConfig.__dataclass_fields__.keys() - silent:
        assert getattr(again, name) == getattr(config, name)
