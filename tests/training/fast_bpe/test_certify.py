import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.training.fast_bpe.tokenizers_of_all_kinds import make
from training.fast_bpe.certify import Difference, certified_encoder, difference_of, revoke
from training.fast_bpe.cut import GPT2, GPT2_DIGITS, QWEN2
from training.fast_bpe.encoder import FastEncoder, NoFastPathError
from training.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make(tmp_path_factory.mktemp("made") / "tokenizer", "llama3")


def test_a_tokenizer_is_tried_once_a_machine(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certified"
    certified_encoder(tokenizer, folder)
    (record,) = folder.iterdir()
    assert json.loads(record.read_text())["difference"] == ""

    def never(*_: object) -> str:
        raise AssertionError("tried again")

    monkeypatch.setattr("training.fast_bpe.certify._try", never)
    tokens, _ = certified_encoder(tokenizer, folder).encode(["over the hill"], "uint16")
    assert tokens.tolist() == tokenizer.encode_batch(["over the hill"])[0].tolist()


@pytest.mark.parametrize("pattern", [GPT2, GPT2_DIGITS, QWEN2])
def test_a_wrong_pattern_is_found_by_the_trial(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: int
) -> None:
    monkeypatch.setattr("training.fast_bpe.encoder.pattern_of", lambda _: pattern)
    with pytest.raises(NoFastPathError, match=r"other ids: of .* from token"):
        certified_encoder(tokenizer, tmp_path)
    monkeypatch.undo()
    # It stays refused until something that it depends on changes.
    with pytest.raises(NoFastPathError, match="from token"):
        certified_encoder(tokenizer, tmp_path)


def test_a_swapped_merge_is_found_by_the_trial(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: object) -> FastEncoder:
        encoder = FastEncoder(*arguments)  # pyright: ignore[reportArgumentType]  passed on
        merged = encoder._tables.merged  # pyright: ignore[reportPrivateUsage]  to damage it
        merged[-2:] = merged[-2:][::-1].copy()
        return encoder

    monkeypatch.setattr("training.fast_bpe.certify.FastEncoder", damaged)
    with pytest.raises(NoFastPathError, match="other ids"):
        certified_encoder(tokenizer, tmp_path)


def test_a_revoked_tokenizer_takes_the_slow_path(tokenizer: Tokenizer, tmp_path: Path) -> None:
    certified_encoder(tokenizer, tmp_path)
    revoke(tokenizer, tmp_path, "of document web/d7 it is wrong")
    with pytest.raises(NoFastPathError, match="web/d7"):
        certified_encoder(tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("slow", "fast", "index"),
    [([1, 2, 3], [1, 5, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [4], 0)],
)
def test_a_difference_says_where_it_begins(
    slow: Sequence[int], fast: Sequence[int], index: int
) -> None:
    found = difference_of(np.array(slow, np.uint16), np.array(fast, np.uint16))
    assert found == Difference(index, tuple(slow[index:]), tuple(fast[index:]))
    assert f"from token {index} on" in str(found)
    assert difference_of(np.array(slow), np.array(slow)) is None
