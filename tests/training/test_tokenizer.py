import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Encoder

from storage.errors import CorruptError, NotFoundError
from storage.layout import Layout
from storage.local_objects import LocalObjects
from training.tokenizer import (
    Tokenizer,
    fetch_tokenizer,
    load_tokenizer,
    tokenizer_digest,
    upload_tokenizer,
)
from training.tokenizer_training import (
    END_OF_TEXT,
    _parts,  # pyright: ignore[reportPrivateUsage]
    train_tokenizer,
)

_WORDS = ["stone", "river", "lamp", "Zug", "北", "été", "naïve", "3.5", "return", "{x}", "\t\n"]


def _texts(count: int = 200) -> list[str]:
    rng = random.Random(7)
    return [" ".join(rng.choices(_WORDS, k=20)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(_texts(), tmp_path_factory.mktemp("trained"), vocab_size=290)


def _write_imported(directory: Path, *, files: dict[str, object], special: bool = True) -> Path:
    """A directory as other people's models bring it: several special tokens, ids not from 0."""
    directory.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    encoder = Encoder(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = ["<s>", "</s>", "<pad>", "<|im_start|>"]
    encoder.add_tokens([AddedToken(name, special=special, rstrip=True) for name in names])
    encoder.save(str(directory / "tokenizer.json"))
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))
    return directory


@given(text=st.text())
def test_any_text_comes_back_unchanged(trained: Tokenizer, text: str) -> None:
    (tokens,) = trained.encode_batch([text])
    assert trained.decode(tokens) == text
    assert trained.start_id not in tokens
    assert tokens.dtype == np.uint16


def test_the_same_texts_in_any_order_give_the_same_files(
    trained: Tokenizer, tmp_path: Path
) -> None:
    again = train_tokenizer(reversed(_texts()), tmp_path / "again", vocab_size=290)
    names = sorted(path.name for path in trained.directory.iterdir())
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (again.directory / name).read_bytes() == (trained.directory / name).read_bytes()


def test_a_trained_tokenizer_has_one_framing_token_with_id_0(trained: Tokenizer) -> None:
    assert (trained.start_id, trained.end_id, trained.vocab_size) == (0, 0, 290)
    assert trained.encoder.id_to_token(0) == END_OF_TEXT


def test_a_text_of_one_character_takes_no_quadratic_time(tmp_path: Path) -> None:
    # Minutes each, if a merge of one run took time in the square of its length.
    hostile = ["a" * 1_000_000, "ab" * 300_000, "\n" * 500_000, "\u0301" * 100_000]
    trained = train_tokenizer([*_texts(), *hostile], tmp_path, vocab_size=400)
    assert trained.decode(trained.encode_batch([hostile[1]])[0]) == hostile[1]


@given(st.text("a \n", max_size=4), st.integers(0, 3000), st.text("b\t", max_size=4))
def test_no_text_is_lost_where_a_long_run_is_cut(before: str, length: int, after: str) -> None:
    text = before + "x" * length + after + " " * length + before
    parts = list(_parts(text))
    assert "".join(parts) == text
    assert all(len(run) <= 1024 for part in parts for run in re.findall(r"\S+|\s+", part))


def test_a_vocabulary_that_does_not_hold_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a vocab_size of at least 257 .*, got 256"):
        train_tokenizer(_texts(), tmp_path, vocab_size=256)


def test_transformers_loads_a_trained_tokenizer(trained: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(trained.directory)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (0, 0)
    text = "stone river été"
    assert theirs(text)["input_ids"] == trained.encode_batch([text])[0].tolist()
    assert theirs.decode(theirs(text)["input_ids"]) == text


def test_text_that_spells_the_end_of_text_stays_text(trained: Tokenizer) -> None:
    text = f"stone{END_OF_TEXT}river {END_OF_TEXT}"
    (tokens,) = trained.encode_batch([text])
    assert 0 not in tokens
    assert trained.decode(tokens) == text


def test_text_that_spells_imported_special_tokens_stays_text(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    directory = _write_imported(tmp_path / "t", files={"tokenizer_config.json": config})
    tokenizer = load_tokenizer(directory)
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.vocab_size) == (256, 257, 260)
    text = "<s>a</s> <pad> b<|im_start|>"
    (tokens,) = tokenizer.encode_batch([text])
    assert tokens.max() < 256
    assert len(tokens) == len(text)


@pytest.mark.parametrize(
    ("files", "framing"),
    [
        ({"tokenizer_config.json": {"eos_token": "</s>", "bos_token": None}}, (257, 257)),
        ({"special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"}}, (256, 257)),
        ({"tokenizer_config.json": {}, "config.json": {"eos_token_id": 257}}, (257, 257)),
        ({"config.json": {"bos_token_id": 256, "eos_token_id": [257, 259]}}, (256, 257)),
        (
            {
                "tokenizer_config.json": {"eos_token": "</s>"},
                "config.json": {"bos_token_id": 256, "eos_token_id": 259},
            },
            (257, 257),
        ),
    ],
)
def test_the_first_file_that_names_an_end_of_text_decides_the_framing(
    files: dict[str, object], framing: tuple[int, int], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(_write_imported(tmp_path / "t", files=files))
    assert (tokenizer.start_id, tokenizer.end_id) == framing


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected an end-of-text token, found no eos_token"),
        ({"tokenizer_config.json": {"eos_token": "<eos>"}}, "names the special token '<eos>'"),
        ({"config.json": {"eos_token_id": 999}}, "names token 999"),
    ],
)
def test_a_directory_without_a_usable_end_of_text_is_refused(
    files: dict[str, object], message: str, tmp_path: Path
) -> None:
    directory = _write_imported(tmp_path / "t", files=files)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(directory)


def test_a_framing_token_that_text_can_spell_is_refused(tmp_path: Path) -> None:
    files: dict[str, object] = {"tokenizer_config.json": {"eos_token": "</s>"}}
    directory = _write_imported(tmp_path / "t", files=files, special=False)
    with pytest.raises(ValueError, match="text that spells '</s>' is encoded as token 257"):
        load_tokenizer(directory)


def test_a_framing_token_that_text_can_spell_next_to_other_letters_is_refused(
    tmp_path: Path,
) -> None:
    # Alone, the sign for a space takes the first letter away; behind another letter it does not.
    pieces = ["</s>", "_", "<", "/", "s", ">", "a", "_<", "</", "</s"]
    merges = [("_", "<"), ("<", "/"), ("</", "s"), ("</s", ">")]
    model = models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    encoder = Encoder(model)
    encoder.normalizer = normalizers.Prepend("_")
    encoder.add_special_tokens(["</s>"])
    encoder.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    encoder.encode_special_tokens = True
    assert 0 not in encoder.encode("</s>").ids
    assert 0 in encoder.encode("a</s>").ids
    with pytest.raises(ValueError, match=r"text that spells '</s>' .* makes it of letters"):
        load_tokenizer(tmp_path)


def test_a_unigram_model_finds_no_special_token_in_text(tmp_path: Path) -> None:
    special = ["<unk>", "<s>", "</s>"]
    letters = [("_", -2.0), *((letter, -3.0) for letter in "<s>/ab"), ("ab", -4.5)]
    encoder = Encoder(models.Unigram([*((name, 0.0) for name in special), *letters], unk_id=0))
    encoder.pre_tokenizer = pre_tokenizers.Metaspace("_")
    encoder.decoder = decoders.Metaspace("_")
    encoder.add_special_tokens(special)
    encoder.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.vocab_size) == (1, 2, 11)
    for text in ("ab", "ab a", "bba 北 ab"):
        assert tokenizer.encode_batch([text])[0].tolist() == encoder.encode(text).ids
    (tokens,) = tokenizer.encode_batch(["a<s>b</s><s> <unk>"])
    assert not {1, 2} & set(tokens.tolist())
    assert len(tokens) == 17
    assert tokenizer.decode([1, *tokens, 2]).startswith("a<s>b</s><s> <")


def test_a_directory_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a tokenizer.json in .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_truncation_and_padding_of_an_imported_tokenizer_are_switched_off(tmp_path: Path) -> None:
    files: dict[str, object] = {"tokenizer_config.json": {"eos_token": "</s>"}}
    directory = _write_imported(tmp_path / "t", files=files)
    encoder = Encoder.from_file(str(directory / "tokenizer.json"))
    encoder.enable_truncation(max_length=4)
    encoder.enable_padding(length=8)
    encoder.save(str(directory / "tokenizer.json"))
    tokens = load_tokenizer(directory).encode_batch(["ab", "abcdefghijk"])
    assert [len(row) for row in tokens] == [2, 11]


def test_a_tokenizer_survives_the_store(trained: Tokenizer, tmp_path: Path) -> None:
    store, layout = LocalObjects(tmp_path / "store"), Layout("demo")
    prefix = upload_tokenizer(store, layout, trained.directory)
    assert prefix == layout.tokenizer(tokenizer_digest(trained.directory))
    assert upload_tokenizer(store, layout, trained.directory) == prefix
    fetched = fetch_tokenizer(store, prefix, tmp_path / "copy")
    assert (fetched.start_id, fetched.end_id) == (trained.start_id, trained.end_id)
    np.testing.assert_array_equal(
        fetched.encode_batch(["stone lamp"])[0], trained.encode_batch(["stone lamp"])[0]
    )


def test_weights_beside_an_imported_tokenizer_stay_behind(tmp_path: Path) -> None:
    config = {"bos_token_id": 256, "eos_token_id": 257}
    directory = _write_imported(tmp_path / "t", files={"config.json": config})
    (directory / "model.safetensors").write_bytes(b"weights")
    store = LocalObjects(tmp_path / "store")
    prefix = upload_tokenizer(store, Layout("demo"), directory)
    names = [info.key.removeprefix(f"{prefix}/") for info in store.list(prefix)]
    assert names == ["manifest.json", "tokenizer.json"]
    fetched = fetch_tokenizer(store, prefix, tmp_path / "copy")
    assert (fetched.start_id, fetched.end_id) == (256, 257)


def test_an_altered_tokenizer_is_found_before_it_is_used(
    trained: Tokenizer, tmp_path: Path
) -> None:
    store = LocalObjects(tmp_path / "store")
    prefix = upload_tokenizer(store, Layout("demo"), trained.directory)
    body = store.get(f"{prefix}/tokenizer.json")
    store.put(f"{prefix}/tokenizer.json", body.replace(b"stone", b"stine"))
    with pytest.raises(CorruptError, match=r"tokenizer\.json"):
        fetch_tokenizer(store, prefix, tmp_path / "copy")


def test_a_prefix_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="expected a tokenizer under lineages/demo/tokenizers/"):
        fetch_tokenizer(
            LocalObjects(tmp_path), Layout("demo").tokenizer("absent"), tmp_path / "copy"
        )
