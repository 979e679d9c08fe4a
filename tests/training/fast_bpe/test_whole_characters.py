import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Encoder
from tokenizers import models, pre_tokenizers, trainers

from tests.training.fast_bpe.pairs import Pairs, assert_equal_ids, pairs_of
from training.fast_bpe.merge import AFTER, ANY_BYTE, BEFORE, NO_BYTE
from training.fast_bpe.tables import tables_of
from training.fast_bpe.whole_characters import _two_of

# Many of them share their first two bytes or their last one, so merges cross characters.
_CHARACTERS = "カキクケコーッフ漢字数据操作用éèßЖ 'a1"


def _save(path: Path, seed: int, *, every_split: bool = False) -> Encoder:
    """A tokenizer of text in which some neighbours are far more frequent than others."""
    rng = random.Random(seed)
    pairs = ["".join(rng.choices(_CHARACTERS, k=2)) for _ in range(12)]
    texts = ["".join(rng.choices(pairs, k=60)) for _ in range(20)]
    encoder = Encoder(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator(texts, trainer)
    spec = json.loads(encoder.to_str())
    if every_split:
        vocab = spec["model"]["vocab"]
        spec["model"]["merges"] = [
            (token[:cut], token[cut:])
            for token in sorted(vocab, key=vocab.__getitem__)
            for cut in range(1, len(token))
            if token[:cut] in vocab and token[cut:] in vocab
        ]
    path.write_text(json.dumps(spec))
    return Encoder.from_file(str(path))


@pytest.fixture(scope="module", params=[False, True], ids=["one-split", "every-split"])
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    save = partial(_save, every_split=request.param)
    return pairs_of(save, tmp_path_factory.mktemp("made"))


@settings(deadline=None)
@given(texts=st.lists(st.text(_CHARACTERS, max_size=60), min_size=1, max_size=8))
def test_beginning_with_characters_gives_what_beginning_with_bytes_gives(
    pairs: Pairs, texts: list[str]
) -> None:
    assert_equal_ids(pairs, texts)


def test_the_tokenizers_of_these_tests_have_characters_of_all_kinds(
    pairs: Pairs,
) -> None:
    entries = np.concatenate(
        [fast._tables.whole_characters for _, fast in pairs]  # pyright: ignore[reportPrivateUsage]
    )
    entries = entries[entries > 0]
    for shift in (AFTER, BEFORE):
        first, second = (entries >> np.uint64(shift + more) & np.uint64(0xFF) for more in (0, 8))
        assert np.any(first == NO_BYTE)
        assert np.any((first < NO_BYTE) & (second == NO_BYTE))


def test_up_to_two_neighbours_are_kept_apart() -> None:
    assert _two_of([]) == NO_BYTE | NO_BYTE << 8
    assert _two_of([0x20]) == 0x20 | NO_BYTE << 8
    assert _two_of([0x20, 0xBC]) == 0x20 | 0xBC << 8
    assert _two_of([0x20, 0x83, 0xBC]) & 0xFF == ANY_BYTE


def test_no_character_is_whole_where_a_token_is_used_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    _save(path, 1)
    model = json.loads(path.read_text())["model"]
    assert tables_of(model).whole_characters.any()
    model["merges"] = model["merges"][::-1]
    assert not tables_of(model).whole_characters.any()
