import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.config import ModelConfig
from training.hub import load_decoder, read_model, write_model
from training.model import Decoder
from training.torchvision_operators import declare_missing_operators

VARIANTS = {
    "llama tied": {},
    "llama untied": {"tie_embeddings": False},
    "llama head_dim": {"head_dim": 10},
    "qwen2 tied": {"qkv_bias": True},
    "qwen2 untied": {"qkv_bias": True, "tie_embeddings": False},
}


def small_config(**changes: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 48,
        "rope_theta": 5000.0,
        "initializer_range": 0.1,
    }
    return ModelConfig(**(fields | changes))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def written(directory: Path, **changes: Any) -> Decoder:
    config = small_config(**changes)
    model = Decoder(config, seed=3)
    write_model(directory, config, model.state_dict(), start_id=0, end_id=2)
    return model


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_from_config(directory: Path, name: str) -> None:
    path = directory / "config.json"
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_is_read_back(variant: str, tmp_path: Path) -> None:
    model = written(tmp_path, **VARIANTS[variant])

    config, weights, token_ids = read_model(tmp_path)

    assert config == model.config
    assert token_ids == {"bos": 0, "eos": 2}
    assert weights.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor)


def test_a_loaded_decoder_computes_the_same_and_can_train(tmp_path: Path) -> None:
    model = written(tmp_path)
    loaded = load_decoder(tmp_path)
    tokens = torch.arange(20).view(2, 10)

    assert not loaded.training
    assert torch.equal(loaded(tokens), model(tokens))
    loaded(tokens, targets=tokens).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_what_we_write_and_we_load_what_it_writes(
    variant: str, tmp_path: Path
) -> None:
    declare_missing_operators()
    transformers = importlib.import_module("transformers")
    model = written(tmp_path / "ours", **VARIANTS[variant])
    tokens = torch.arange(40).view(2, 20)

    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    loaded.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    back = load_decoder(tmp_path / "theirs")

    assert report["missing_keys"] == []
    assert report["unexpected_keys"] == []
    torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    assert torch.equal(back(tokens), model(tokens))


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    model = written(tmp_path)
    tied = {**model.state_dict(), "lm_head.weight": model.output_weight}
    write_model(tmp_path, model.config, tied, start_id=0, end_id=2)

    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    model = written(tmp_path)
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    write_model(tmp_path, model.config, half, start_id=0, end_id=2)

    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    for name, tensor in read_model(tmp_path).weights.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half[name].float())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("partial_rotary_factor", 0.5),
        ("sliding_window", 128),
        ("use_sliding_window", True),
        ("quantization_config", {"bits": 4}),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("auto_map", {"AutoModel": "modeling.Model"}),
        ("model_type", "mistral"),
        ("residual_multiplier", 0.2),
    ],
)
def test_a_field_that_changes_the_computation_is_refused_by_name(
    name: str, value: object, tmp_path: Path
) -> None:
    written(tmp_path)
    edit_config(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"config\.json: .*{name}.*model"):
        read_model(tmp_path)


def test_harmless_fields_change_nothing(tmp_path: Path) -> None:
    model = written(tmp_path)
    edit_config(
        tmp_path,
        rope_scaling=None,
        pretraining_tp=2,
        transformers_version="4.0",
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        eos_token_id=[2, 7],
    )
    config, _, token_ids = read_model(tmp_path)
    assert config == model.config
    assert token_ids == {"bos": 0, "eos": 2}


def test_a_window_that_qwen2_does_not_use_is_no_obstacle(tmp_path: Path) -> None:
    model = written(tmp_path, qkv_bias=True)
    edit_config(tmp_path, sliding_window=4096, max_window_layers=2, use_sliding_window=False)
    assert read_model(tmp_path).config == model.config


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    drop_from_config(tmp_path, "intermediate_size")
    with pytest.raises(ValueError, match="'intermediate_size' is missing"):
        read_model(tmp_path)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin only.*convert it to safetensors"):
        read_model(tmp_path)


def test_missing_and_torn_weights_are_named(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is not whole"):
        read_model(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        read_model(tmp_path)


def test_an_index_cannot_point_outside_the_directory(tmp_path: Path) -> None:
    written(tmp_path)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"elsewhere.*not a file of this directory"):
        read_model(tmp_path)


def test_tensors_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    model = written(tmp_path)
    weights = dict(model.state_dict())
    path = tmp_path / "model.safetensors"

    save_file({**weights, "model.layers.0.extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"unexpected tensor model\.layers\.0\.extra\.weight"):
        read_model(tmp_path)
    save_file({name: t for name, t in weights.items() if name != "model.norm.weight"}, path)
    with pytest.raises(ValueError, match=r"lacks tensor model\.norm\.weight"):
        read_model(tmp_path)
    save_file({**weights, "model.norm.weight": torch.zeros(31)}, path)
    with pytest.raises(ValueError, match=r"model\.norm\.weight is .*\[31\], expected .*\[32\]"):
        read_model(tmp_path)


def test_an_output_layer_that_contradicts_tying_is_refused(tmp_path: Path) -> None:
    model = written(tmp_path)
    weights = {**model.state_dict(), "lm_head.weight": torch.zeros(61, 32)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"tie_word_embeddings is true but lm_head\.weight differs"
    ):
        read_model(tmp_path)
