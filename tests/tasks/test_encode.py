from pathlib import Path

import numpy as np
import pytest

from tasks.curate import content_digest
from tasks.encode import DocumentEncoder, Encoded, EncodingMismatchError, Legible
from training.fast_bpe.encoder import FastEncoder
from training.tokenizer import Tokenizer
from training.tokenizer_training import train_tokenizer

_TEXTS = [f"line {n}\n\tété {n * 7} over the hill, don't <|endoftext|>" for n in range(40)]


def _legible(texts: list[str]) -> list[Legible]:
    return [
        Legible(text, content_digest(text), f"web/d{n}", "/data/1.jsonl")
        for n, text in enumerate(texts)
    ]


def _split(encoded: Encoded) -> list[np.ndarray]:
    return np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(_TEXTS, tmp_path_factory.mktemp("trained"), vocab_size=300)


def test_little_text_is_encoded_without_the_fast_path(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = DocumentEncoder(tokenizer, tmp_path / "certified")
    encoder.encode(_legible(_TEXTS))
    nothing = encoder.encode([])
    assert (nothing.tokens.size, nothing.lengths.size) == (0, 0)
    assert nothing.tokens.dtype == np.uint16
    assert not (tmp_path / "certified").exists()


def test_much_text_takes_the_fast_path_to_the_same_tokens(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.encode._MANY_CHARACTERS", 1)
    monkeypatch.setattr("training.fast_bpe.certify.NUM_TRIALS", 100)
    monkeypatch.setattr("tasks.encode._CHECKED_ONE_IN", 3)
    encoder = DocumentEncoder(tokenizer, tmp_path / "certified")
    tokens = [
        ids
        for start in (0, 15)
        for ids in _split(encoder.encode(_legible(_TEXTS)[start : start + 15]))
    ]
    assert len(list((tmp_path / "certified").iterdir())) == 1
    for text, ids in zip(_TEXTS[:30], tokens, strict=True):
        assert ids.tolist() == tokenizer.encode_batch([text])[0].tolist()
        assert ids.dtype == np.uint16


def test_less_text_is_enough_for_the_fast_path_where_it_was_tried_before(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, _TEXTS))
    monkeypatch.setattr("tasks.encode._SOME_CHARACTERS", size)
    monkeypatch.setattr("tasks.encode._MANY_CHARACTERS", 2 * size)
    monkeypatch.setattr("training.fast_bpe.certify.NUM_TRIALS", 100)
    lots: list[int] = []
    right = FastEncoder.encode

    def counted(self: FastEncoder, texts: list[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        lots.append(len(texts))
        return right(self, texts, dtype)

    monkeypatch.setattr(FastEncoder, "encode", counted)
    for expected in ([False, True, True], [True, True, True]):
        encoder = DocumentEncoder(tokenizer, tmp_path)
        taken: list[bool] = []
        for _ in range(3):
            lots.clear()
            encoder.encode(_legible(_TEXTS))
            taken.append(len(_TEXTS) in lots)
        assert taken == expected


def test_a_mismatch_names_document_and_ids_and_bars_the_fast_path(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.encode._MANY_CHARACTERS", 1)
    monkeypatch.setattr("training.fast_bpe.certify.NUM_TRIALS", 100)
    monkeypatch.setattr("tasks.encode._CHECKED_ONE_IN", 1)
    right = FastEncoder.encode

    def wrong(self: FastEncoder, texts: list[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, counts = right(self, texts, dtype)
        if len(texts) == len(_TEXTS):
            tokens[counts[:7].sum() + 2] = 299
        return tokens, counts

    monkeypatch.setattr(FastEncoder, "encode", wrong)
    with pytest.raises(EncodingMismatchError) as raised:
        DocumentEncoder(tokenizer, tmp_path).encode(_legible(_TEXTS))
    slow = tokenizer.encode_batch([_TEXTS[7]])[0].tolist()
    assert "document web/d7 in /data/1.jsonl from token 2 on" in str(raised.value)
    assert str(slow[2:8]) in str(raised.value)
    assert str([299, *slow[3:8]]) in str(raised.value)
    # The next refresh does without it.
    tokens = _split(DocumentEncoder(tokenizer, tmp_path).encode(_legible(_TEXTS)))
    assert tokens[7].tolist() == slow
