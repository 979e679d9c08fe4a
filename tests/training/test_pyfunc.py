import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from storage.errors import CorruptError
from storage.manifest import readable_json
from storage.models import ModelManifest, digest_directory
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.hub.directory import load_decoder, write_model
from training.pyfunc import TextGenerator, write_mlmodel
from training.tokenizer import Tokenizer, load_tokenizer
from training.tokenizer_training import train_tokenizer

TEXTS = [f"river {n} runs past hill {n * 7 % 13} and into lake {n * 5 % 11}" for n in range(60)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("model"))


def published(directory: Path) -> Path:
    """A model directory as ``tasks.publish`` leaves it in the store."""
    tokenizer = train_tokenizer(TEXTS, directory, vocab_size=300)
    config = ModelConfig(
        vocab_size=320,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
    )
    model = Decoder(config, seed=3)
    write_model(
        directory,
        config,
        model.state_dict(),
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    write_mlmodel(directory, identity="lineage/1-aaaaaaaa")
    files = digest_directory(directory)
    manifest = ModelManifest(
        lineage="l", version="v", origin="o", code_version="1", content="c", files=files
    )
    (directory / "manifest.json").write_bytes(readable_json(manifest))
    return directory


def greedy(directory: Path, tokenizer: Tokenizer, prompt: str, steps: int) -> str:
    """Greedy continuation by our own decoder, without transformers and without a cache."""
    model = load_decoder(directory)
    tokens = [tokenizer.start_id, *tokenizer.encode_batch([prompt])[0].tolist()]
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            new.append(int(model(torch.tensor([tokens + new]))[0, -1].argmax()))
        if new[-1] == tokenizer.end_id:
            break
    return tokenizer.decode(new)


def test_importing_the_loader_does_not_import_torch_or_mlflow() -> None:
    code = (
        "import sys, training.pyfunc;"
        "print({'torch', 'transformers', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_greedy_text_is_what_our_own_decoder_says(directory: Path) -> None:
    prompts = ["river 3 runs", "hill", "", "text with <|endoftext|> in it"]
    generator = TextGenerator(directory)
    tokenizer = load_tokenizer(directory)
    expected = [greedy(directory, tokenizer, prompt, 12) for prompt in prompts]
    assert generator.predict(prompts, {"max_new_tokens": 12}) == expected
    assert generator.predict(prompts[::-1], {"max_new_tokens": 12}) == expected[::-1]


def test_lists_arrays_frames_and_one_string_are_the_same_prompts(directory: Path) -> None:
    import numpy as np
    import pandas as pd

    generator = TextGenerator(directory)
    prompts = ["river", "lake"]
    params = {"max_new_tokens": 4}
    expected = generator.predict(prompts, params)
    assert generator.predict(np.array(prompts), params) == expected
    assert generator.predict(np.array(prompts, dtype=object), params) == expected
    assert generator.predict(pd.DataFrame({"prompt": prompts}), params) == expected
    assert generator.predict("river", params) == expected[:1]


def test_sampling_follows_the_seed_of_torch(directory: Path) -> None:
    generator = TextGenerator(directory)
    params = {"max_new_tokens": 16, "temperature": 1.5}
    torch.manual_seed(0)
    first = generator.predict(["river"], params)
    second = generator.predict(["river"], params)
    torch.manual_seed(0)
    assert generator.predict(["river"], params) == first
    assert second != first


def test_the_context_is_never_exceeded(directory: Path) -> None:
    generator = TextGenerator(directory)
    assert len(generator.predict(["river"], {"max_new_tokens": 1000})) == 1
    with pytest.raises(ValueError, match=r"leaves no room in a context of 48 tokens: shorten it"):
        generator.predict(["river hill lake " * 30])


@pytest.mark.parametrize(
    ("model_input", "params", "message"),
    [
        (["river", 3], {}, r"prompt 1 is a int, expected a string"),
        (["river"], {"max_tokens": 3}, r"unknown params \['max_tokens'\]"),
        (["river"], {"max_new_tokens": 0}, r"max_new_tokens must be at least 1, got 0"),
        (["river"], {"temperature": -1}, r"temperature must be at least 0"),
        (["river"], {"temperature": float("nan")}, r"temperature must be at least 0"),
    ],
)
def test_impossible_requests_are_refused(
    directory: Path, model_input: object, params: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerator(directory).predict(model_input, params)


def test_an_altered_byte_is_found_before_the_model_is_used(tmp_path: Path) -> None:
    directory = published(tmp_path)
    path = directory / "model.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(CorruptError, match=r"model\.safetensors was expected with"):
        TextGenerator(directory)
    path.unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors is missing"):
        TextGenerator(directory)
    (directory / "manifest.json").unlink()
    with pytest.raises(CorruptError, match=r"manifest\.json is missing"):
        TextGenerator(directory)


def test_the_mlmodel_is_the_same_wherever_and_whenever_it_is_written(
    directory: Path, tmp_path: Path
) -> None:
    again = published(tmp_path / "elsewhere")
    names = sorted(path.name for path in directory.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (directory / name).read_bytes() == (again / name).read_bytes(), name
    mlmodel = yaml.safe_load((directory / "MLmodel").read_text())
    assert mlmodel["flavors"]["python_function"]["loader_module"] == "training.pyfunc"
    assert str(tmp_path) not in json.dumps(mlmodel)
