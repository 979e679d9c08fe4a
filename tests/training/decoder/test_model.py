import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
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
from training.cross_entropy import IGNORE_INDEX, nats_of_targets
from training.decoder.attention import attend, positions_of, segments_of
from training.decoder.model import Decoder, flops_per_token, num_parameters


def small_config(**changes: Any) -> ModelConfig:
    return config_of("llama gqa tied", **changes)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def theirs(model: Decoder) -> Any:
    """The model of transformers with the weights of ``model``."""
    other = of_transformers(model.config)
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if model.config.tie_embeddings else [])
    other.tie_weights()
    return other


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("variant", FAMILIES)
def test_logits_and_gradients_equal_those_of_transformers(variant: str) -> None:
    """On rows of more than three windows."""
    ours = scrambled(config_of(variant))
    reference = theirs(ours)
    tokens = tokens_of(3, 24)

    logits = ours(tokens)
    expected = reference(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)

    for out in (logits, expected):
        F.cross_entropy(out[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("length", [40, 1100])
def test_a_document_never_sees_its_neighbour_not_by_one_bit(precision: str, length: int) -> None:
    """1100: more keys than one block of the attention kernel."""
    model = scrambled(small_config())
    tokens = tokens_of(2, length)
    border = length * 3 // 5
    tokens[:, [0, border]] = 0
    changed = tokens.clone()
    changed[:, 1:border] = tokens_of(2, border - 1, seed=1)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        before = model(tokens, segments_of(tokens, 0))
        after = model(changed, segments_of(changed, 0))

    assert torch.equal(before[:, border:], after[:, border:])
    assert not torch.equal(before[:, :border], after[:, :border])


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_packed_document_scores_as_it_does_alone(variant: str) -> None:
    model = scrambled(config_of(variant))
    tokens = tokens_of(2, 50)
    tokens[:, [0, 17]] = 0

    packed = model(tokens, segments_of(tokens, 0))

    torch.testing.assert_close(packed[:, :17], model(tokens[:, :17]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[:, 17:], model(tokens[:, 17:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["llama gqa tied", "mistral", "olmo2"])
@pytest.mark.parametrize("with_segments", [False, True])
def test_the_future_changes_nothing(with_segments: bool, variant: str) -> None:
    model = scrambled(config_of(variant))
    tokens = tokens_of(2, 30)
    changed = tokens.clone()
    changed[:, 20:] = tokens_of(2, 10, seed=1)
    segments = torch.zeros_like(tokens) if with_segments else None

    before, after = model(tokens, segments), model(changed, segments)

    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


@pytest.mark.parametrize("with_segments", [False, True])
def test_a_window_ends_where_it_says(with_segments: bool) -> None:
    """With one layer, what lies beyond the window cannot come round by another way."""
    model = scrambled(config_of("mistral", num_layers=1))
    tokens = tokens_of(1, 3 * WINDOW)
    changed = tokens.clone()
    changed[:, 0] += 1
    segments = torch.zeros_like(tokens) if with_segments else None

    before, after = model(tokens, segments), model(changed, segments)

    assert torch.equal(before[:, WINDOW:], after[:, WINDOW:])
    assert not torch.equal(before[:, WINDOW - 1], after[:, WINDOW - 1])


@pytest.mark.parametrize("variant", ["llama gqa tied", "mistral", "qwen2 window"])
def test_masks_are_made_once_a_forward_and_only_where_they_are_needed(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Decoder(config_of(variant, num_layers=5))
    seen: list[Tensor | None] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(mask)
        return attend(query, key, value, mask)

    monkeypatch.setattr("training.decoder.layers.attend", watched)
    model(tokens_of(1, WINDOW))
    assert seen == [None] * 5

    seen.clear()
    model(tokens_of(1, WINDOW + 1))
    num_full = {"mistral": 0, "qwen2 window": 1}.get(variant, 5)
    assert seen[:num_full] == [None] * num_full
    assert len({id(mask) for mask in seen[num_full:]}) == min(1, 5 - num_full)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=12, max_size=12), min_size=1, max_size=4))
def test_positions_restart_with_every_segment(rows: list[list[int]]) -> None:
    tokens = torch.tensor(rows)
    expected: list[list[int]] = []
    for row in rows:
        counted: list[int] = []
        for index, token in enumerate(row):
            counted.append(0 if index == 0 or token == 2 else counted[-1] + 1)
        expected.append(counted)

    assert positions_of(segments_of(tokens, 2)).tolist() == expected


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    config = small_config(qkv_bias=True, tie_embeddings=False)
    torch.manual_seed(1)
    first = Decoder(config, seed=5).state_dict()
    state = torch.random.get_rng_state()
    second = Decoder(config, seed=5).state_dict()
    other = Decoder(config, seed=6).state_dict()

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(first["model.norm.weight"], torch.ones(32))
    assert not first["model.layers.1.self_attn.k_proj.bias"].any()
    assert first["lm_head.weight"].std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("in_chunk", "in_float32"), [(100, 100), (26, 7)])
def test_the_loss_without_logits_has_the_value_and_gradients_of_cross_entropy(
    tied: bool, in_chunk: int, in_float32: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 predictions: at once, or in chunks and parts of chunks of which the last is short."""
    monkeypatch.setattr("training.cross_entropy.rows_per_chunk", lambda *_: in_chunk)
    monkeypatch.setattr("training.cross_entropy.rows_in_float32", lambda *_: in_float32)
    model = scrambled(small_config(tie_embeddings=tied, vocab_size=97))
    plain = copy.deepcopy(model)
    tokens = tokens_of(3, 21, vocab_size=97)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, 3:9] = IGNORE_INDEX
    segments = torch.zeros_like(inputs)

    loss = model(inputs, segments, targets=targets)
    expected = F.cross_entropy(
        plain(inputs, segments).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    (loss / 7).backward()
    (expected / 7).backward()

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for parameter, reference in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-5)


def test_nats_of_targets_sum_to_the_loss() -> None:
    model = scrambled(small_config())
    tokens = tokens_of(2, 21)
    targets = tokens[:, 1:].clone()
    targets[1, :4] = IGNORE_INDEX

    hidden = model.forward_hidden(tokens[:, :-1]).flatten(0, 1)
    nats = nats_of_targets(hidden, model.output_weight, targets.flatten())

    torch.testing.assert_close(nats.sum(), model(tokens[:, :-1], targets=targets))
    assert nats.view(2, 20)[1, :4].tolist() == [0.0] * 4
    assert (nats.view(2, 20)[0] > 0).all()


@pytest.mark.parametrize("variant", ["llama gqa tied", "mistral", "qwen3", "olmo2"])
def test_a_bf16_step_is_close_to_an_fp32_step(variant: str) -> None:
    model = scrambled(config_of(variant))
    tokens = tokens_of(4, 33)
    exact = model(tokens[:, :-1], targets=tokens[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens[:, :-1], targets=tokens[:, 1:])

    assert rounded.dtype == torch.float32
    # bf16 keeps 8 bits: 0.4 % a product, averaged over 128 targets.
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


def test_parameters_and_flops_are_those_counted_by_hand() -> None:
    config = small_config()
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    matrices = 97 * 32 + 2 * layer + 32
    assert num_parameters(config) == matrices
    assert flops_per_token(config, 16) == 6 * matrices + 12 * 2 * 32 * 16

    # Two tables of the width of the heads a layer, and half the keys.
    windowed = config_of("qwen3", head_dim=8, sliding_window=4)
    assert num_parameters(windowed) == matrices + 2 * 2 * 8
    assert flops_per_token(windowed, 16) == 6 * (matrices + 32) + 12 * 2 * 32 * 4
    assert flops_per_token(windowed, 2) == 6 * (matrices + 32) + 12 * 2 * 32 * 2
    half = config_of("qwen2 window")
    biases = 2 * (32 + 2 * 16)
    assert num_parameters(half) == matrices + biases
    assert flops_per_token(half, 16) == 6 * (matrices + biases) + 12 * 32 * (16 + WINDOW)
    olmo2 = config_of("olmo2", tie_embeddings=True)
    assert num_parameters(olmo2) == matrices + 2 * (32 + 16)

    untied = small_config(tie_embeddings=False)
    assert num_parameters(untied) == matrices + 97 * 32
    assert flops_per_token(untied, 16) == flops_per_token(config, 16)


@pytest.mark.parametrize("variant", FAMILIES)
def test_what_is_made_on_meta_gets_the_same_weights(variant: str) -> None:
    config = config_of(variant)
    with torch.device("meta"):
        model = Decoder(config, seed=1)
    assert all(parameter.is_meta for parameter in model.parameters())

    model.materialise("cpu", seed=5)

    expected = Decoder(config, seed=5).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_to_make_a_decoder_does_not_import_the_compiler() -> None:
    """Which takes seconds, at every start of a worker."""
    script = (
        "import sys\n"
        "from tests.training.families import config_of\n"
        "from training.decoder.model import Decoder\n"
        "Decoder(config_of('qwen3'))\n"
        "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["False", "False"]


def test_a_head_of_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be even, .* it is 5: set an even head_dim"):
        ModelConfig(
            vocab_size=97,
            hidden_size=20,
            num_layers=1,
            num_heads=4,
            num_kv_heads=4,
            intermediate_size=8,
        )
