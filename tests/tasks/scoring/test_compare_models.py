"""Two model directories of either format, scored on the same texts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.judge.compare import Comparison
from tasks.judge.verdict import CheckConfig
from tasks.scoring.compare_models import compare_models, contender_of
from tasks.scoring.held_out import GivenText, Passage
from tests.support.foreign_models import foreign_directory
from tests.support.lineages import TEXTS, hub_directory
from training.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``native`` and its brother ``retrained``; ``foreign``; ``capitals``, of other tokens."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    hub_directory(folder / "native")
    hub_directory(folder / "retrained", seed=4)
    for name, family, texts in (
        ("foreign", "gpt_neox", TEXTS),
        ("capitals", "gpt2", [text.upper() for text in TEXTS]),
    ):
        foreign_directory(folder / name, family, vocab_size=320)
        train_tokenizer(texts, folder / name, vocab_size=300)
    return folder


def given(*texts: str, domain: str = "rivers") -> GivenText:
    passages = (
        Passage(document=f"d{n}", cluster=f"d{n}", text=text) for n, text in enumerate(texts)
    )
    return GivenText(domain=domain, passages=tuple(passages))


def compared(a: Path, b: Path, *texts: GivenText) -> Comparison:
    return compare_models(
        contender_of(a, a.name), contender_of(b, b.name), texts or [given(*TEXTS)], CheckConfig()
    )


@pytest.mark.parametrize("name", ["native", "foreign"])
def test_a_copy_of_a_model_is_exactly_as_good(models: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(models / name, tmp_path / "copy")
    (copy / "README.md").write_text("elsewhere")
    found = compared(models / name, copy)
    (row,) = found.rows
    assert found.verdict == "PASS"
    assert (row.change, row.lower_bound, row.upper_bound) == (0.0, 0.0, 0.0)


def test_the_same_weights_under_another_description_are_exactly_as_good(
    models: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(models / "native", tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"_name_or_path": "somewhere"}))
    (row,) = compared(models / "native", copy).rows
    assert (row.change, row.upper_bound) == (0.0, 0.0)


def test_swapped_models_give_the_opposite_change(models: Path) -> None:
    (forth,) = compared(models / "native", models / "retrained").rows
    (back,) = compared(models / "retrained", models / "native").rows
    assert forth.change is not None
    assert forth.change != 0
    assert back.change == pytest.approx(-forth.change, abs=1e-12)
    assert (forth.a_loss, forth.b_loss) == (back.b_loss, back.a_loss)


def test_a_spoiled_copy_is_refused_and_the_model_may_replace_it(
    models: Path, tmp_path: Path
) -> None:
    spoiled = shutil.copytree(models / "native", tmp_path / "spoiled")
    weights = load_file(spoiled / "model.safetensors")
    # Embeddings several times as large make a model sure of what it has never learned.
    weights["model.norm.weight"] *= 30
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    assert compared(models / "native", spoiled).verdict == "FAIL"
    found = compared(spoiled, models / "native")
    assert (found.verdict, found.rows[0].meaning) == ("PASS", "better")


def test_models_of_both_formats_with_one_tokenizer_are_compared_per_token(models: Path) -> None:
    found = compared(models / "native", models / "foreign")
    assert found.unit == "nats per token"
    assert found.rows[0].documents == len(TEXTS)


def test_models_with_different_tokenizers_are_compared_per_byte(models: Path) -> None:
    found = compared(models / "native", models / "capitals")
    (row,) = found.rows
    assert found.unit == "nats per byte"
    assert row.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert row.a_loss is not None
    assert row.a_bits_per_byte == pytest.approx(row.a_loss / torch.log(torch.tensor(2.0)).item())
    # The native model's tokens hold several bytes each.
    assert row.margin < CheckConfig().max_loss_nats / 2


def test_a_document_longer_than_the_models_sees_is_scored_in_windows(models: Path) -> None:
    text = given(" ".join(TEXTS), domain="long")
    (row,) = compared(models / "native", models / "retrained", text).rows
    assert row.documents == 1
    assert row.meaning == "cannot tell"


def test_any_language_can_be_judged(models: Path) -> None:
    text = given(*(f"河 {n} 流过山丘 Fluß {n} fließt 🌊" for n in range(20)), domain="many")
    (row,) = compared(models / "native", models / "retrained", text).rows
    assert row.text_bytes == sum(len(passage.text.encode()) for passage in text.passages)


def test_a_tokenizer_that_cannot_spell_a_text_gains_nothing_by_it(
    models: Path, tmp_path: Path
) -> None:
    spelled = shutil.copytree(models / "native", tmp_path / "spelled")
    path = spelled / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"] |= {"unk_token": "z", "merges": [], "vocab": {"z": vocab.pop("z"), **vocab}}
    # The letter r has no token any more.
    del tokenizer["model"]["vocab"]["r"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"tokenizer of spelled has no tokens for parts of rivers"):
        compared(models / "native", spelled)
    # With itself it shares what it leaves out, and elsewhere it leaves out nothing.
    assert compared(spelled, spelled).verdict == "PASS"
    assert compared(models / "native", spelled, given("a hill", "a lake")).rows[0].documents == 2


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", r"config\.json"),
        ("model.safetensors", r"\*\.safetensors"),
        ("tokenizer.json", r"tokenizer\.json"),
    ],
)
def test_a_directory_that_is_no_whole_model_is_refused_by_the_missing_file(
    models: Path, tmp_path: Path, missing: str, named: str
) -> None:
    copy = shutil.copytree(models / "native", tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(ValueError, match=rf"copy has no {named}: expected"):
        contender_of(copy, "copy")


def test_a_directory_that_does_not_exist_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model directory at"):
        contender_of(tmp_path / "nowhere", "nowhere")
