import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.families import (
    FAMILIES,
    WINDOW,
    config_of,
    of_transformers,
    scrambled,
    tokens_of,
)
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.foreign.torchvision_operators import declare_missing_operators
from training.hub.directory import load_decoder, read_config, read_into, read_model, write_model


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def written(directory: Path, variant: str = "llama gqa tied", **changes: Any) -> Decoder:
    config = config_of(variant, **changes)
    model = scrambled(config, seed=3)
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


def with_head_dim(config: ModelConfig) -> ModelConfig:
    """Some config.json spell out the width of a head that follows from the others."""
    return replace(config, head_dim=config.head_width)


def gradients_of(model: Any, logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", FAMILIES)
def test_what_is_written_is_read_back(variant: str, tmp_path: Path) -> None:
    model = written(tmp_path, variant)

    config, weights, token_ids = read_model(tmp_path)

    assert with_head_dim(config) == with_head_dim(model.config)
    assert read_config(tmp_path) == config
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
@pytest.mark.parametrize("variant", FAMILIES)
def test_transformers_loads_what_we_write(variant: str, tmp_path: Path) -> None:
    declare_missing_operators()
    transformers = importlib.import_module("transformers")
    model = written(tmp_path, variant)
    tokens = tokens_of(2, 3 * WINDOW)

    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )

    assert report["missing_keys"] == []
    assert report["unexpected_keys"] == []
    torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("variant", FAMILIES)
def test_we_load_what_transformers_writes(variant: str, tmp_path: Path) -> None:
    """Randomly initialised there, in several files."""
    config = config_of(variant)
    theirs = of_transformers(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    tokens = tokens_of(2, 3 * WINDOW)

    ours = load_decoder(tmp_path)

    assert (tmp_path / "model.safetensors.index.json").exists()
    assert with_head_dim(ours.config) == with_head_dim(config)
    logits, expected = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    reference = gradients_of(theirs, expected, tokens)
    for name, gradient in gradients_of(ours, logits, tokens).items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-4, atol=1e-6)


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
        ("rope_scaling", {"type": "dynamic", "factor": 8.0}),
        ("rope_scaling", {"rope_type": "linear", "factor": 8.0, "mscale": 2.0}),
        ("rope_theta", 1234.5),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("attention_multiplier", 0.5),
        ("partial_rotary_factor", 0.5),
        ("sliding_window", 128),
        ("use_sliding_window", True),
        ("quantization_config", {"bits": 4}),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("auto_map", {"AutoModel": "modeling.Model"}),
        ("model_type", "gpt_neox"),
        ("residual_multiplier", 0.2),
    ],
)
def test_a_field_that_changes_the_computation_is_refused_by_name(
    name: str, value: object, tmp_path: Path
) -> None:
    written(tmp_path)
    edit_config(tmp_path, **{"rope_parameters": {"rope_theta": 10_000.0}, name: value})
    with pytest.raises(ValueError, match=rf"config\.json: .*{name}.*model"):
        read_model(tmp_path)


def test_harmless_fields_change_nothing(tmp_path: Path) -> None:
    model = written(tmp_path)
    edit_config(
        tmp_path,
        rope_scaling=None,
        pretraining_tp=2,
        transformers_version="4.0",
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=[2, 7],
    )
    config, _, token_ids = read_model(tmp_path)
    assert config == model.config
    assert token_ids == {"bos": 0, "eos": 2}


def test_a_window_that_qwen2_does_not_use_is_no_obstacle(tmp_path: Path) -> None:
    model = written(tmp_path, "qwen2 tied")
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
    weights = {**model.state_dict(), "lm_head.weight": torch.zeros(97, 32)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"tie_word_embeddings is true but lm_head\.weight differs"
    ):
        read_model(tmp_path)


def test_weights_are_read_into_a_model_that_is_there(tmp_path: Path) -> None:
    model = written(tmp_path)
    other = Decoder(model.config, seed=9)
    parameters = dict(other.named_parameters())

    read_into(other, tmp_path)

    for name, tensor in model.state_dict().items():
        assert torch.equal(parameters[name], tensor)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rope_theta": 5000.0}, r"rope_theta is 10000\.0 there, expected 5000\.0"),
        ({"num_layers": 3}, "num_layers is 2 there, expected 3"),
        ({"head_dim": 10}, "head_width is 8 there, expected 10"),
        ({"sliding_window": 8}, "sliding_window is None there, expected 8"),
    ],
)
def test_another_architecture_is_refused_by_the_field_that_differs(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    written(tmp_path)
    other = Decoder(config_of("llama gqa tied", **changes))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}

    with pytest.raises(ValueError, match=rf"another model than the one expected: {what}"):
        read_into(other, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_what_no_logit_depends_on_may_differ(tmp_path: Path) -> None:
    model = written(tmp_path)
    other = Decoder(config_of("llama gqa tied", max_position_embeddings=64, head_dim=8))
    read_into(other, tmp_path)
    assert torch.equal(other.output_weight, model.output_weight)


def test_weights_of_another_precision_than_we_know_are_refused(tmp_path: Path) -> None:
    model = written(tmp_path)
    double = {name: tensor.double() for name, tensor in model.state_dict().items()}
    save_file(double, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is F64 .*expected F32 or BF16 or F16"):
        read_model(tmp_path)
