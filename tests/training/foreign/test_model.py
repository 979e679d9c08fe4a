"""Models that transformers computes: what comes out is theirs, alone or packed, in and out."""

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from storage.errors import CorruptError
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import readable_json, unseal
from storage.objects import open_store
from tests.support.foreign_models import FAMILIES, VOCAB, foreign_directory, transformers_model
from tests.support.killing_store import run_killed
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import tensors_of, tiny_plan
from training.checkpoint.index import step_prefix
from training.config import ForeignConfig, TrainPlan
from training.cross_entropy import IGNORE_INDEX
from training.data.holdout import HoldoutDocument
from training.evaluate import score_documents
from training.foreign.config import foreign_config_of, model_config_of, why_not_native
from training.foreign.files import load_foreign, write_foreign
from training.foreign.model import ForeignModel, build_foreign
from training.generate import generate
from training.launch import run_training
from training.loop import lr_at
from training.metrics import LOSS, read_metrics
from training.model_files import load_model
from training.parallel.config import ParallelConfig

PACKED_BY = {
    "falcon": "mask",
    "opt": "mask",
    "stablelm": "mask",
    "bloom": "rows",
    "mpt": "rows",
}
"""All others: positions."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: foreign_directory(root / family, family) for family in FAMILIES}


def theirs_of(family: str) -> Any:
    """The same weights in transformers; with its plain attention where the fused one is wrong."""
    model = transformers_model(family)
    if family == "gemma2":
        model.set_attn_implementation("eager")
    return model


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(7))


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_nats_and_gradients_are_those_of_transformers(
    family: str, directories: dict[str, Path]
) -> None:
    ours, theirs = load_foreign(directories[family]), theirs_of(family)
    tokens = random_tokens(3, 21)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[1, 4:9] = IGNORE_INDEX

    logits = theirs(input_ids=inputs).logits
    expected = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    expected.backward()
    total, nats = ours.summed_nats(inputs, torch.zeros_like(inputs), targets)
    total.backward()

    assert torch.equal(ours(inputs), logits)
    torch.testing.assert_close(total, expected)
    assert nats.sum().item() == pytest.approx(total.item())
    assert nats.view(targets.shape)[1, 4:9].tolist() == [0.0] * 5
    found = gradients_of(ours.network)
    assert found.keys() == gradients_of(theirs).keys()
    for name, gradient in gradients_of(theirs).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_document_is_computed_as_if_alone(
    family: str, directories: dict[str, Path]
) -> None:
    packed = load_foreign(directories[family])
    alone = copy.deepcopy(packed)
    tokens, lengths = random_tokens(1, 48), (9, 1, 1, 14, 23)
    segments = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    targets = tokens.roll(1, 1)

    packed.summed_nats(tokens, segments, targets)[0].backward()
    logits: list[torch.Tensor] = []
    for document, wanted in zip(tokens.split(lengths, 1), targets.split(lengths, 1), strict=True):
        logits.append(alone(document))
        F.cross_entropy(logits[-1][0], wanted[0], reduction="sum").backward()

    assert packed.config.packing == PACKED_BY.get(family, "positions")
    torch.testing.assert_close(packed(tokens, segments), torch.cat(logits, 1), rtol=1e-4, atol=1e-4)
    expected = gradients_of(alone)
    for name, gradient in gradients_of(packed).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_transformers_and_we_read_back(
    family: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = load_foreign(directories[family])
    write_foreign(tmp_path, model, start_id=1, end_id=2)
    again = load_foreign(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, report = loaded
    tokens = random_tokens(2, 17)

    assert again.config == model.config
    assert torch.equal(again(tokens), model(tokens))
    assert (report["missing_keys"], report["unexpected_keys"]) == ([], [])
    if family != "gemma2":
        assert torch.equal(theirs(input_ids=tokens).logits, model(tokens))
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, 2)
    # Tied weights once, and nothing of what the wrapper is called.
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == dict(theirs.named_parameters()).keys()
    # What a scheduler reads, without transformers, is the same architecture.
    fields = json.loads((tmp_path / "config.json").read_text())
    assert model_config_of(fields, tmp_path) == model.config
    assert model.config.vocab_size == VOCAB


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "opt", "bloom"])
def test_evaluation_is_a_plain_loop_over_documents(
    family: str, directories: dict[str, Path]
) -> None:
    model, theirs = load_foreign(directories[family]), theirs_of(family)
    random = np.random.default_rng(0)
    documents = [
        HoldoutDocument(f"d{n}", "c", np.array([0, *random.integers(2, VOCAB, n), 1]), 9)
        for n in (3, 11, 1, 30, 6)
    ]
    scores = score_documents(model, documents, start_id=0, end_id=1, seq_len=32)
    for document, score in zip(documents, scores, strict=True):
        tokens = torch.from_numpy(document.tokens)[None]
        with torch.no_grad():
            logits = theirs(input_ids=tokens[:, :-1]).logits[0].double()
        expected = F.cross_entropy(logits, tokens[0, 1:], reduction="sum")
        assert score.nats == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_greedy_continuations_are_those_of_transformers(
    family: str, directories: dict[str, Path]
) -> None:
    model, theirs = load_foreign(directories[family]), theirs_of(family)
    prompts = [[5, 6, 7], [8]]
    written = generate(model, prompts, max_new_tokens=6, end_id=VOCAB)
    for prompt, tokens in zip(prompts, written, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens == expected[0, len(prompt) :].tolist()


def foreign_plan(root: Path, directory: Path, **changes: Any) -> tuple[TrainPlan, str]:
    """``tiny_plan`` that starts from a foreign model in the store."""
    plan, uri = tiny_plan(root, num_steps=6)
    model = load_foreign(directory)
    write_foreign(root.parent / f"{root.name}-export", model, start_id=0, end_id=0)
    for path in (root.parent / f"{root.name}-export").iterdir():
        LocalObjects(root).put_file(f"imported/{path.name}", path)
    return replace(plan, model=model.config, initial="imported", **changes), uri


def train_here(plan: TrainPlan, uri: str, work_dir: Path, *, dies_in_step: int = 0) -> str:
    def lr_or_death(tokens_seen: int, schedule: object) -> float:
        if tokens_seen == dies_in_step * plan.global_batch_tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        return lr_at(tokens_seen, plan.schedule)

    with mock.patch("training.loop.lr_at", lr_or_death):
        return run_training(
            plan, store_uri=uri, num_workers=0, work_dir=work_dir, threads_per_worker=1
        )


@pytest.mark.parametrize(
    ("family", "precision"),
    [("gpt2", "fp32"), ("opt", "bf16"), ("mpt", "fp32")],
)
def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(
    family: str, precision: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    finals: list[tuple[str, str]] = []
    for name, deaths in (("whole", ()), ("killed", (2, 5))):
        plan, uri = foreign_plan(tmp_path / name, directories[family], precision=precision)
        for step in deaths:
            work = tmp_path / f"work-{name}"
            ended = run_killed(lambda: train_here(plan, uri, work, dies_in_step=step))  # noqa: B023
            assert ended.killed, ended.error
        final = train_here(plan, uri, tmp_path / f"work-{name}")
        finals.append(tensors_of(open_store(uri), final))
    assert finals[0] == finals[1]


@pytest.mark.parametrize(
    ("family", "parallel"),
    [
        ("gpt_neox", ParallelConfig(strategy="ddp")),
        ("gpt2", ParallelConfig(strategy="fsdp", activation_checkpointing="full")),
    ],
)
def test_two_workers_train_on_and_resume_to_the_same_bits(
    directories: dict[str, Path], tmp_path: Path, family: str, parallel: ParallelConfig
) -> None:
    finals: list[tuple[str, str]] = []
    for name, deaths in (("whole", ()), ("stopped", (4,))):
        plan, uri = foreign_plan(tmp_path / name, directories[family])
        for stop_at in (*deaths, None):
            run_ranks(
                plan,
                uri,
                tmp_path / f"work-{name}",
                world_size=2,
                stop_at=stop_at,
                parallel=parallel,
            )
        final = step_prefix(plan.checkpoint_prefix, plan.num_steps)
        finals.append(tensors_of(open_store(uri), final))
    assert finals[0] == finals[1]
    losses = losses_of(plan, uri)
    plan, uri = foreign_plan(tmp_path / "alone", directories[family])
    train_here(plan, uri, tmp_path / "work-alone")
    assert losses == pytest.approx(losses_of(plan, uri), abs=1e-5)


def losses_of(plan: TrainPlan, uri: str) -> list[float]:
    rows = read_metrics(open_store(uri), Layout(plan.lineage).metrics(plan.update))
    return [row[LOSS] for row in rows]


def test_plans_of_both_kinds_are_read_back_as_they_were(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    native, _ = tiny_plan(tmp_path)
    foreign = replace(native, model=load_foreign(directories["falcon"]).config)
    for plan in (native, foreign):
        assert unseal(readable_json(plan), "plan.json", TrainPlan) == plan


def test_weights_without_influence_are_left_as_they_are(tmp_path: Path) -> None:
    model = transformers_model("gpt2")
    model.transformer.h[0].attn.idle = torch.nn.Linear(3, 3)
    config = foreign_config_of({"model_type": "gpt2", **FAMILIES["gpt2"]}, tmp_path)
    wrapped = ForeignModel(model, config)
    frozen = [name for name, p in wrapped.named_parameters() if not p.requires_grad]
    assert frozen == [f"network.transformer.h.0.attn.idle.{name}" for name in ("weight", "bias")]


def test_fields_of_other_versions_that_mean_nothing_are_no_obstacle(tmp_path: Path) -> None:
    foreign_directory(tmp_path, "gpt2")
    expected = load_foreign(tmp_path).config
    edit_config(tmp_path, n_ctx=64, gradient_checkpointing=False, rotary=True, some_dropout=0.1)
    assert load_foreign(tmp_path).config == expected
    edit_config(tmp_path, rotary=False)
    with pytest.raises(ValueError, match=r"'rotary' = false is not known to GPT2Config"):
        load_foreign(tmp_path)


def test_a_plan_for_another_model_than_the_stored_one_is_refused_by_field(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    plan, uri = foreign_plan(tmp_path / "store", directories["gpt2"])
    assert isinstance(plan.model, ForeignConfig)
    fields = json.loads(plan.model.fields) | {"layer_norm_epsilon": 0.5}
    other = replace(plan, model=foreign_config_of(fields, tmp_path))
    with pytest.raises(ValueError, match=r"imported: layer_norm_epsilon is 1e-05 there, 0\.5 in"):
        train_here(other, uri, tmp_path / "work")


def test_dropout_and_its_random_numbers_take_no_part(tmp_path: Path) -> None:
    rates = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    model = load_foreign(foreign_directory(tmp_path, "gpt2", **rates)).train()
    tokens = random_tokens(2, 9)
    before = torch.get_rng_state()
    first, second = model(tokens), model(tokens)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert json.loads(model.config.fields)["resid_pdrop"] == 0.5


def test_random_weights_follow_the_seed_and_move_no_other_random_state() -> None:
    config = foreign_config_of({"model_type": "gpt2", **FAMILIES["gpt2"]}, Path("config.json"))
    before = torch.get_rng_state()
    first, second, other = (build_foreign(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    tokens = random_tokens(1, 9)
    assert torch.equal(first(tokens), second(tokens))
    assert not torch.equal(first(tokens), other(tokens))


def test_half_precision_weights_are_trained_in_float32(tmp_path: Path) -> None:
    transformers_model("gpt_neox").bfloat16().save_pretrained(tmp_path)
    model = load_foreign(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.Model"}}, r"auto_map = .* never run"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config = .* trained exactly"),
        ({"num_experts": 8}, r"num_experts = 8 needs a router's own loss"),
        ({"is_encoder_decoder": True}, r"is_encoder_decoder = true is no causal"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, r"rope_scaling = .*other documents"),
        ({"residual_multiplier": 0.2}, r"'residual_multiplier' = 0\.2 is not known to GPT2Config"),
        ({"attn_implementation": "kernels/x"}, r"'attn_implementation' = .* not known"),
        ({"model_type": "t5"}, r"model_type 't5' is no causal language model"),
        ({"model_type": "of_tomorrow"}, r"model_type 'of_tomorrow' is no causal language model"),
        ({"n_layer": 1}, r"has the unexpected tensor transformer\.h\.1\."),
        ({"n_layer": 3}, r"lacks tensor transformer\.h\.2\."),
    ],
)
def test_what_could_not_be_trained_exactly_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    foreign_directory(tmp_path, "gpt2")
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_foreign(tmp_path)


def test_pickles_and_adapters_are_never_read(tmp_path: Path) -> None:
    foreign_directory(tmp_path, "gpt2")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter .*merge"):
        load_foreign(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin only, a pickle, which can run code"):
        load_foreign(tmp_path)


def test_a_model_that_sees_the_future_is_refused(tmp_path: Path) -> None:
    sizes = {**FAMILIES["phi"], "intermediate_size": 48}
    foreign_directory(tmp_path, "bert", **sizes, is_decoder=False)
    with pytest.raises(ValueError, match=r"bert model gives a token other logits .*causal"):
        load_foreign(tmp_path)


def test_weights_that_cannot_show_a_leak_are_packed_in_the_way_that_has_none(
    tmp_path: Path,
) -> None:
    blind = load_foreign(foreign_directory(tmp_path / "blind", "opt", init_std=1e-4))
    assert blind.config.packing == "rows"
    write_foreign(tmp_path / "trained", blind, start_id=0, end_id=0)
    weights = load_file(foreign_directory(tmp_path / "opt", "opt") / "model.safetensors")
    save_file(weights, tmp_path / "trained" / "model.safetensors", metadata={"format": "pt"})
    # Found once, it stays, or a run would go on with other bits than it began with.
    assert load_foreign(tmp_path / "trained").config == blind.config


def test_a_packing_that_leaks_is_found_before_the_first_step(directories: dict[str, Path]) -> None:
    model = load_foreign(directories["opt"])
    leaking = ForeignModel(model.network, replace(model.config, packing="positions"))
    tokens = random_tokens(1, 9)
    with pytest.raises(ValueError, match=r"opt model gives .* \(packed by positions\)"):
        leaking.summed_nats(tokens, torch.zeros_like(tokens), tokens)


def test_damaged_weights_are_found_before_training(tmp_path: Path) -> None:
    foreign_directory(tmp_path, "gpt2")
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.ln_f.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"gpt2 model gave logits that are not finite"):
        load_foreign(tmp_path)


def test_a_stored_model_without_one_of_its_tensors_is_refused(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    plan, uri = foreign_plan(tmp_path / "store", directories["gpt2"])
    key = "imported/model.safetensors"
    path = tmp_path / "model.safetensors"
    store = LocalObjects(tmp_path / "store")
    store.get_file(key, path)
    weights = load_file(path)
    del weights["transformer.ln_f.bias"]
    save_file(weights, path)
    store.put_file(key, path)
    with pytest.raises(CorruptError, match=r"transformer\.ln_f\.bias must have shape \(32,\)"):
        train_here(plan, uri, tmp_path / "work")


def test_what_the_decoder_leaves_out_transformers_computes(tmp_path: Path) -> None:
    small = {**FAMILIES["stablelm"], "hidden_act": "gelu"}
    model = load_foreign(foreign_directory(tmp_path, "llama", **small))
    assert isinstance(load_model(tmp_path), ForeignModel)
    assert "hidden_act" in why_not_native(model.config)
