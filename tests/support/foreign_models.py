"""Tiny random models of many families, made by ``transformers`` itself."""

from pathlib import Path
from typing import Any

import torch

VOCAB = 61
_WIDE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GATED: dict[str, Any] = {**_WIDE, "intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA: dict[str, Any] = {**_GATED, "head_dim": 8, "pad_token_id": 3}
_GPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neox": {**_WIDE, "intermediate_size": 48},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "sliding_window": 6, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**_GEMMA, "sliding_window": 6},
    "phi": {**_WIDE, "intermediate_size": 48},
    "falcon": _WIDE,
    "opt": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 64,
        "init_std": 0.1,
    },
    "bloom": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
        "initializer_range": 0.1,
    },
    "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "stablelm": _GATED,
    "starcoder2": _GATED,
    "cohere": {**_GATED, "pad_token_id": 3},
}
"""Small enough for milliseconds, wide enough that a leak between documents shows."""


def transformers_model(family: str, **changes: Any) -> Any:
    """A model of ``transformers`` with random weights, in evaluation mode."""
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(3)
    config = CONFIG_MAPPING[family](**{**FAMILIES.get(family, {}), **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def foreign_directory(directory: Path, family: str, **changes: Any) -> Path:
    """A Hugging Face directory as ``save_pretrained`` writes it, without a tokenizer."""
    transformers_model(family, **changes).save_pretrained(directory)
    return directory
