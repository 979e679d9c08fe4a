import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.fast_bpe.tokenizers_of_all_kinds import make
from training.fast_bpe.cut import CL100K, GPT2, GPT2_DIGITS, QWEN2
from training.fast_bpe.encoder import FastEncoder, NoFastPathError
from training.fast_bpe.support import added_texts, normalises, pattern_of, why_slow
from training.tokenizer_training import train_tokenizer


def _spec(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "tokenizer.json").read_text())


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("gpt2", GPT2),
        ("gpt2-digits", GPT2_DIGITS),
        ("llama3", CL100K),
        ("qwen2", QWEN2),
    ],
)
def test_the_usual_patterns_are_known(tmp_path: Path, kind: str, pattern: int) -> None:
    spec = _spec(make(tmp_path / "t", kind, normalise=True, added=("<tool>",)).directory)
    assert why_slow(spec) == ""
    assert pattern_of(spec) == pattern
    assert normalises(spec)
    assert added_texts(spec) == ("<tool>",)


def test_a_tokenizer_that_is_trained_here_has_a_fast_path(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["over the hill"] * 3, tmp_path, vocab_size=260)
    spec = _spec(tokenizer.directory)
    assert (why_slow(spec), pattern_of(spec), normalises(spec)) == ("", GPT2, False)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("model.type", "Unigram", "model Unigram"),
        ("model.dropout", 0.1, "dropout 0.1"),
        ("model.byte_fallback", True, "byte_fallback True"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix '</w>'"),
        ("model.continuing_subword_prefix", "##", "continuing_subword_prefix '##'"),
        ("normalizer", {"type": "NFKC"}, "normalizer NFKC"),
        ("normalizer", {"type": "Sequence", "normalizers": []}, "normalizer Sequence"),
        ("pre_tokenizer", None, "pre-tokenizer None"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer Whitespace"),
        ("pre_tokenizer.add_prefix_space", True, "pre-tokenizer ByteLevel"),
        ("pre_tokenizer.use_regex", False, "pre-tokenizer ByteLevel"),
        ("post_processor", {"type": "New"}, "post-processor New"),
        ("added_tokens.0.special", False, ""),
        ("added_tokens", [{"content": "é", "special": False}], "added token 'é'"),
        ("added_tokens", [{"content": "", "special": False}], "added token ''"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, path: str, value: object, reason: str) -> None:
    spec = copy.deepcopy(_spec(make(tmp_path / "t", "gpt2").directory))
    *parents, last = path.split(".")
    place: Any = spec
    for parent in parents:
        place = place[int(parent)] if parent.isdigit() else place[parent]
    place[last] = value
    assert why_slow(spec) == reason


def test_another_expression_is_not_taken_for_a_known_one(tmp_path: Path) -> None:
    spec = _spec(make(tmp_path / "t", "llama3").directory)
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    assert why_slow(spec) == "pre-tokenizer Split + ByteLevel"


def test_a_byte_without_a_token_is_refused(tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "t", "gpt2")
    path = tokenizer.directory / "tokenizer.json"
    spec = _spec(tokenizer.directory)
    spec["model"]["merges"] = []
    del spec["model"]["vocab"]["a"]
    path.write_text(json.dumps(spec))
    with pytest.raises(NoFastPathError, match="byte 0x61"):
        FastEncoder(tokenizer.encoder, path)
