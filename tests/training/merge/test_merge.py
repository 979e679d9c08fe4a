import json
import multiprocessing
import resource
import shutil
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.lineages import MODEL, hub_directory
from training.decoder.model import Decoder
from training.hub.directory import load_decoder, write_model
from training.hub.weights import stored_tensors, write_weights
from training.merge.merge import merge
from training.merge.parents import check_related, cosine_of, open_parents
from training.merge.rules import interpolation, task_arithmetic
from training.model_files import load_model


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    return hub_directory(tmp_path / "champion", seed=1)


@pytest.fixture
def candidate(tmp_path: Path, champion: Path) -> Path:
    """The champion, trained a little further."""
    directory = shutil.copytree(champion, tmp_path / "candidate")
    weights = load_file(directory / "model.safetensors")
    noise = torch.Generator().manual_seed(7)
    for tensor in weights.values():
        tensor += 0.01 * torch.randn(tensor.shape, generator=noise)
    (directory / "model.safetensors").unlink()
    write_weights(directory, weights)
    return directory


def change_config(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_merge_is_a_model_that_transformers_and_we_can_load(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    parents = open_parents({"1-a": champion, "2-b": candidate})
    merge(parents, interpolation(0.25), tmp_path / "merged")
    first, second, merged = (
        load_model(path) for path in (champion, candidate, tmp_path / "merged")
    )
    for name, value in merged.state_dict().items():
        expected = (
            0.75 * first.state_dict()[name].double() + 0.25 * second.state_dict()[name].double()
        )
        # One rounding to float32 of numbers below 2.
        assert (value.double() - expected).abs().max() <= 1.2e-7
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names


def test_the_ends_of_the_line_are_the_parents_files(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    parents = open_parents({"1-a": champion, "2-b": candidate})
    for weight, parent in ((0.0, champion), (1.0, candidate)):
        merge(parents, interpolation(weight), tmp_path / "merged")
        name = "model.safetensors"
        assert (tmp_path / "merged" / name).read_bytes() == (parent / name).read_bytes()


def test_files_of_any_cut_give_the_same_tensors(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in champion.glob("*.json"):
        shutil.copyfile(path, cut / path.name)
    write_weights(cut, load_file(champion / "model.safetensors"), max_shard_bytes=20_000)
    assert len(list(cut.glob("*.safetensors"))) > 2
    for first in (champion, cut):
        parents = open_parents({"1-a": first, "2-b": candidate})
        out = tmp_path / f"merged-{first.name}"
        merge(parents, interpolation(0.4), out, max_shard_bytes=30_000)
        assert len(list(out.glob("*.safetensors"))) > 2
    one, other = (
        load_decoder(tmp_path / f"merged-{name}").state_dict() for name in ("champion", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_parents_precision_is_kept(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    half = {k: v.bfloat16() for k, v in load_file(champion / "model.safetensors").items()}
    save_file(half, champion / "model.safetensors")
    change_config(champion, torch_dtype="bfloat16")
    merge(open_parents({"a": champion, "b": candidate}), interpolation(0.5), tmp_path / "merged")
    assert {tensor.dtype for tensor in stored_tensors(tmp_path / "merged").values()} == {"BF16"}
    assert json.loads((tmp_path / "merged/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_tied_embeddings_are_merged_once(tmp_path: Path) -> None:
    config = replace(MODEL, tie_embeddings=True)
    directories = {}
    for seed, name in ((1, "a"), (2, "b")):
        weights = Decoder(config, seed=seed).state_dict()
        directories[name] = tmp_path / name
        write_model(directories[name], config, weights, start_id=0, end_id=0)
    # One of them spells the shared matrix twice, as old versions of transformers did.
    weights = load_file(tmp_path / "a/model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "a/model.safetensors")
    merge(open_parents(directories), interpolation(0.5), tmp_path / "merged")
    assert "lm_head.weight" not in stored_tensors(tmp_path / "merged")
    load_decoder(tmp_path / "merged")


def test_whole_numbers_are_copied_and_must_agree(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    for number, directory in ((3, champion), (3, candidate)):
        weights = load_file(directory / "model.safetensors")
        save_file({**weights, "steps": torch.tensor([number])}, directory / "model.safetensors")
    parents = open_parents({"a": champion, "b": candidate})
    merge(parents, interpolation(0.5), tmp_path / "merged")
    assert load_file(tmp_path / "merged/model.safetensors")["steps"].tolist() == [3]
    save_file({**weights, "steps": torch.tensor([4])}, candidate / "model.safetensors")
    parents = open_parents({"a": champion, "b": candidate})
    with pytest.raises(ValueError, match=r"steps holds whole numbers.*not the same in a and b"):
        merge(parents, interpolation(0.5), tmp_path / "merged")


def test_parents_that_do_not_fit_are_refused_by_name(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    def refusal() -> str:
        with pytest.raises(ValueError, match=r"1-old .*2-new") as error:
            open_parents({"1-old": champion, "2-new": candidate})
        return str(error.value)

    kept = (candidate / "config.json").read_bytes()
    change_config(candidate, vocab_size=301)
    assert "another vocabulary: vocab_size is 320 and 301" in refusal()
    (candidate / "config.json").write_bytes(kept)
    change_config(candidate, num_attention_heads=2)
    assert "another architecture: num_attention_heads is 4 and 2" in refusal()
    (candidate / "config.json").write_bytes(kept)

    tokenizer = json.loads((candidate / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[50:52]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    spelled = (candidate / "tokenizer.json").read_bytes()
    (candidate / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "different tokenizers (model of tokenizer.json differs)" in refusal()
    (candidate / "tokenizer.json").write_bytes(spelled)

    weights = load_file(candidate / "model.safetensors")
    changed = {**weights, "model.norm.weight": torch.ones(5)}
    save_file(changed, candidate / "model.safetensors")
    assert "model.norm.weight is F32 [32] in 1-old and F32 [5] in 2-new" in refusal()
    save_file({**weights, "model.extra": torch.ones(5)}, candidate / "model.safetensors")
    assert "model.extra is in 2-new only (1 in all)" in refusal()


def test_models_without_a_common_ancestor_are_refused(
    champion: Path, candidate: Path, tmp_path: Path
) -> None:
    stranger = hub_directory(tmp_path / "stranger", seed=9)
    one, other, third = open_parents({"a": champion, "b": candidate, "c": stranger})
    assert check_related(one, other) > 0.8
    assert check_related(one, one) == pytest.approx(1)
    assert abs(cosine_of(one, third)) < 0.1
    with pytest.raises(ValueError, match=r"a and c must have a common ancestor"):
        check_related(one, third)


_TENSOR_MIB, _TENSORS = 16, 12


def _peak_of_a_merge(parents: list[Path], out: Path, answer: Connection) -> None:
    torch.set_num_threads(1)
    opened = open_parents({str(n): path for n, path in enumerate(parents)})
    # Everything that is loaded once has been, and the rule has run.
    task_arithmetic([0.5])("x", [torch.ones(4)] * 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merge(opened, task_arithmetic([0.5]), out)
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def test_memory_is_a_few_tensors_whatever_the_size_of_the_model(tmp_path: Path) -> None:
    """192 MiB of weights a parent, in tensors of 16 MiB."""
    parents = [tmp_path / name for name in "abc"]
    for seed, directory in enumerate(parents):
        directory.mkdir()
        (directory / "config.json").write_text("{}")
        rows = _TENSOR_MIB * 2**20 // 4 // 1024
        fill = torch.full((rows, 1024), float(seed))
        write_weights(directory, {f"layers.{n}.weight": fill for n in range(_TENSORS)})
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_peak_of_a_merge, args=(parents, tmp_path / "out", theirs)
    )
    process.start()
    grown_mib = mine.recv()
    process.join()
    # A tensor of each of three parents, the merged one, and what torch needs for its blocks.
    assert grown_mib < 4 * _TENSOR_MIB + 48, grown_mib
