"""A small architecture of every family that the native decoder computes."""

import importlib
from typing import Any

import torch
from torch import Tensor

from training.config import ModelConfig
from training.decoder.config import RopeScaling
from training.decoder.model import Decoder
from training.foreign.torchvision_operators import declare_missing_operators
from training.hub.config import fields_of

WINDOW = 7
LLAMA3 = RopeScaling(
    kind="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama mha tied": {"num_kv_heads": 4},
    "llama gqa tied": {},
    "llama untied": {"tie_embeddings": False},
    "llama head_dim": {"head_dim": 10},
    "llama biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "llama 3.1": {"rope_scaling": LLAMA3, "rope_theta": 500_000.0, "tie_embeddings": False},
    "llama linear": {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "mistral": {"sliding_window": WINDOW, "tie_embeddings": False},
    "qwen2 tied": {"qkv_bias": True},
    "qwen2 untied": {"qkv_bias": True, "tie_embeddings": False},
    "qwen2 window": {"qkv_bias": True, "sliding_window": WINDOW, "num_full_attention_layers": 1},
    "qwen3": {"qk_norm": "head", "head_dim": 10},
    "qwen3 biases, window": {
        "qk_norm": "head",
        "qkv_bias": True,
        "output_bias": True,
        "sliding_window": WINDOW,
    },
    "olmo2": {"qk_norm": "width", "norm_position": "after", "tie_embeddings": False},
    "olmo2 biases, linear": {
        "qk_norm": "width",
        "norm_position": "after",
        "qkv_bias": True,
        "output_bias": True,
        "rope_scaling": RopeScaling(kind="linear", factor=2.0),
    },
}


def config_of(variant: str, **changes: Any) -> ModelConfig:
    """One of ``FAMILIES``, two layers deep."""
    fields: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 48,
        "initializer_range": 0.1,
    }
    return ModelConfig(**(fields | FAMILIES[variant] | changes))


def scrambled(config: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder in which biases and norms matter as well."""
    model = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens_of(rows: int, length: int, *, vocab_size: int = 97, seed: int = 0) -> Tensor:
    """Random tokens without 0, which opens documents in these tests."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, vocab_size, (rows, length), generator=generator)


def of_transformers(config: ModelConfig) -> Any:
    """The model that transformers builds for the config.json we write, with its own weights."""
    declare_missing_operators()
    transformers = importlib.import_module("transformers")
    fields = fields_of(config, start_id=0, end_id=0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    )
    assert type(model).__name__ == fields["architectures"][0]
    return model
