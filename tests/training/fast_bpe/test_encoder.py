import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.fast_bpe.tokenizers_of_all_kinds import PRE_TOKENIZERS, make
from training.fast_bpe.encoder import FastEncoder, NoFastPathError
from training.fast_bpe.trial_texts import trial_texts
from training.tokenizer import Tokenizer, load_tokenizer


def _fast(tokenizer: Tokenizer) -> FastEncoder:
    return FastEncoder(tokenizer.encoder, tokenizer.directory / "tokenizer.json")


def _assert_equal(tokenizer: Tokenizer, fast: FastEncoder, texts: list[str]) -> None:
    tokens, counts = fast.encode(texts, tokenizer.token_dtype)
    slow = tokenizer.encode_batch(texts)
    assert counts.tolist() == [len(ids) for ids in slow]
    assert tokens.dtype == tokenizer.token_dtype
    for text, ids, quick in zip(texts, slow, np.split(tokens, np.cumsum(counts)[:-1]), strict=True):
        assert ids.tolist() == quick.tolist(), text


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    return make(tmp_path_factory.mktemp("made") / "tokenizer", request.param)


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> FastEncoder:
    return _fast(tokenizer)


def test_the_trial_texts_have_the_ids_of_tokenizers(
    tokenizer: Tokenizer, fast: FastEncoder
) -> None:
    _assert_equal(tokenizer, fast, list(trial_texts(["the", " ", "東"], ["<|endoftext|>"], 900)))


@settings(deadline=None)
@given(texts=st.lists(st.text(), max_size=5))
def test_any_texts_have_the_ids_of_tokenizers(
    tokenizer: Tokenizer, fast: FastEncoder, texts: list[str]
) -> None:
    _assert_equal(tokenizer, fast, [*texts, ""])


@settings(deadline=None)
@given(text=st.text("a1 \n'\u017fsLl.(\u3000é", max_size=40))
def test_a_few_characters_in_any_order_have_the_ids_of_tokenizers(
    tokenizer: Tokenizer, fast: FastEncoder, text: str
) -> None:
    _assert_equal(tokenizer, fast, [text])


def test_what_spells_a_special_token_is_ordinary_text(
    tokenizer: Tokenizer, fast: FastEncoder
) -> None:
    tokens, _ = fast.encode(["a<|endoftext|>b", "<|endoftext|>"], "uint32")
    assert tokenizer.end_id not in tokens
    _assert_equal(tokenizer, fast, ["a<|endoftext|>b", "<|endoftext|>"])


def test_ids_do_not_depend_on_what_was_encoded_before(tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "t", "gpt2")
    texts = list(trial_texts(["the"], [], 300))
    warm = _fast(tokenizer)
    first, _ = warm.encode(texts, "uint32")
    again, _ = warm.encode(texts[::-1], "uint32")
    turned, _ = _fast(tokenizer).encode(texts[::-1], "uint32")
    assert again.tolist() == turned.tolist()
    assert warm.encode(texts, "uint32")[0].tolist() == first.tolist()


def test_texts_are_normalised_first_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "t", "qwen2", normalise=True)
    texts = ["e\u0301te\u0301", "\u212b", "\u1100\u1161\u11a8", "plain", "\u0915\u093c"]
    _assert_equal(tokenizer, _fast(tokenizer), [*texts, *trial_texts(["the"], [], 300)])


def test_added_tokens_that_are_text_are_found(tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "t", "llama3", normalise=True, added=("<tool>", "K;"))
    # U+212A and U+037E become K and ; by normalisation.
    texts = ["a<tool>b", "<tool", "\u212a\u037e", "K\u037e", "none", "<tool><|endoftext|>"]
    _assert_equal(tokenizer, _fast(tokenizer), [*texts, *trial_texts([], ["<tool>"], 100)])


def test_a_vocabulary_before_merges_is_followed_or_refused(tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "t", "llama3", ignore_merges=True)
    _assert_equal(tokenizer, _fast(tokenizer), list(trial_texts(["the"], [], 300)))
    path = tokenizer.directory / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"]["vocab"]["qxz"] = 600
    path.write_text(json.dumps(spec))
    with pytest.raises(NoFastPathError, match="'qxz' is a token that merges miss"):
        _fast(load_tokenizer(tokenizer.directory))


@pytest.mark.parametrize("unit", ["a", " ", "ab", "the", "東", "\n", "1", "=-"])
def test_long_pieces_take_no_quadratic_time(
    tokenizer: Tokenizer, fast: FastEncoder, unit: str
) -> None:
    _assert_equal(tokenizer, fast, [unit * 20_000])

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        times: list[float] = []
        for _ in range(3):
            began = time.process_time()
            fast.encode([text], "uint32")
            times.append(time.process_time() - began)
        return min(times)

    # Sixteen times the text: quadratic would be 256 times.
    assert seconds(1_600_000) < 64 * max(seconds(100_000), 2e-3)
