import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from storage.manifest import canonical_json, identity_of
from storage.rebuild import rebuild
from training.config import ModelConfig
from training.decoder.config import RopeScaling
from training.identity import ADDED_LATER, identity_fields

# As stored by the first version of Perennial, which knew Llama and Qwen2 alone.
STORED = json.loads("""{
  "head_dim": null, "hidden_size": 32, "initializer_range": 0.1, "intermediate_size": 48,
  "max_position_embeddings": 2048, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2,
  "qkv_bias": true, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_embeddings": true,
  "vocab_size": 97
}""")
STORED_IDENTITY = "9d0285ce75cac8cd0fd4971d433dcf1c9b27db94c46c024ae05af2bb90c8ad66"


@dataclass(frozen=True)
class Later:
    """A configuration of which two fields came later."""

    old: int
    new: int = field(default=3, metadata=ADDED_LATER)
    many: tuple[int, ...] = field(default_factory=tuple, metadata=ADDED_LATER)


@dataclass(frozen=True)
class Outer:
    """One inside another, as a plan has them."""

    parts: tuple[Later, ...]
    named: dict[str, Later]


def test_a_stored_architecture_is_read_and_keeps_its_identity() -> None:
    config = rebuild(STORED, "plan.json", ModelConfig)

    assert config.family == "qwen2"
    assert json.loads(canonical_json(identity_fields(config))) == STORED
    assert identity_of(identity_fields(config)) == STORED_IDENTITY


def test_what_is_used_of_the_new_is_part_of_the_identity() -> None:
    config = replace(rebuild(STORED, "plan.json", ModelConfig), qkv_bias=False)
    changes: list[dict[str, Any]] = [
        {"sliding_window": 8},
        {"mlp_bias": True},
        {"qk_norm": "head"},
        {"qk_norm": "width", "norm_position": "after"},
        {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
        {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    ]
    identities = {identity_of(identity_fields(replace(config, **change))) for change in changes}

    assert len(identities | {identity_of(identity_fields(config))}) == len(changes) + 1


@given(st.integers(), st.integers(), st.lists(st.integers()).map(tuple))
def test_only_defaults_of_later_fields_are_left_out(
    old: int, new: int, many: tuple[int, ...]
) -> None:
    value = Outer(parts=(Later(old, new, many),), named={"a": Later(old)})
    found = identity_fields(value)

    assert found["named"] == {"a": {"old": old}}
    assert ("new" in found["parts"][0]) == (new != 3)
    assert ("many" in found["parts"][0]) == (many != ())
    assert rebuild(json.loads(canonical_json(found)), "here", Outer) == value
    assert found["parts"][0].items() <= json.loads(json.dumps(asdict(value)))["parts"][0].items()
