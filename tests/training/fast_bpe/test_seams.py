import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Encoder
from tokenizers import models, pre_tokenizers

from tests.training.fast_bpe.pairs import Pairs, assert_equal_ids, pairs_of
from training.fast_bpe.cut import MARGIN, SEPARATOR
from training.fast_bpe.encoder import FastEncoder
from training.fast_bpe.seams import SHORTEST, narrow, neighbours_of
from training.fast_bpe.tables import byte_spellings

# Of one to four bytes; some share their first two bytes or their last one.
_CHARACTERS = "aéñカキコー漢桂字操😀😁𐍈"


def _narrowed(text: bytes, tokens: list[bytes]) -> list[bytes]:
    """The parts of one piece."""
    margin = bytes([SEPARATOR]) * MARGIN
    whole = np.frombuffer(margin + text + margin, np.uint8)
    pieces = np.array([MARGIN, MARGIN + len(text)], np.int64)
    narrower = np.empty(len(whole), np.int64)
    count = narrow(whole, pieces, 1, neighbours_of(tokens), narrower)
    begins = narrower[: count + 1]
    assert begins[0] == MARGIN
    assert begins[-1] == MARGIN + len(text)
    return [whole[a:b].tobytes() for a, b in pairwise(begins)]


def _is_spanned(parts: list[bytes], tokens: list[bytes], seam: int) -> bool:
    """Whether one of ``tokens`` is there across the end of the part before ``seam``."""
    before, after = b"".join(parts[:seam]), b"".join(parts[seam:])
    return any(
        before.endswith(token[:cut]) and after.startswith(token[cut:])
        for token in tokens
        for cut in range(1, len(token))
    )


@st.composite
def _texts_and_tokens(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A text, and parts of it as tokens, which begin and end anywhere, so inside characters too."""
    text = draw(st.text(_CHARACTERS, min_size=4, max_size=30)).encode()
    begins = draw(st.lists(st.integers(0, len(text) - 2), max_size=8))
    return text, [text[begin : begin + draw(st.integers(2, 9))] for begin in begins]


@settings(deadline=None, max_examples=400)
@given(both=_texts_and_tokens())
def test_no_token_spans_a_seam(both: tuple[bytes, list[bytes]]) -> None:
    text, tokens = both
    parts = _narrowed(text, tokens)
    assert b"".join(parts) == text
    assert all(parts)
    assert not any(_is_spanned(parts, tokens, seam) for seam in range(1, len(parts)))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], "漢|字|カ|キ|コ|é|a"),
        (["字カ"], "漢|字カ|キ|コ|é|a"),
        (["字カキ"], "漢|字カキ|コ|é|a"),
        # Only with what is beside them are these two in a token.
        (["字カコ", "漢カキ", "漢字漢"], "漢|字|カ|キ|コ|é|a"),
        (["字カキコ", "コéa"], "漢|字カキコéa"),
    ],
)
def test_a_piece_is_cut_between_all_characters_that_no_token_holds(
    tokens: list[str], expected: str
) -> None:
    text = expected.replace("|", "")
    parts = _narrowed(text.encode(), [token.encode() for token in tokens])
    assert b"|".join(parts).decode() == expected


def test_a_token_that_begins_or_ends_inside_of_a_character_holds_it() -> None:
    whole = "漢字カキコ".encode()
    for begin in range(len(whole)):
        for end in range(begin + 2, len(whole) + 1):
            parts = _narrowed(whole, [whole[begin:end]])
            seams = np.cumsum([len(part) for part in parts])[:-1].tolist()
            assert seams == [place for place in range(3, 15, 3) if not begin < place < end]


@pytest.mark.parametrize("text", ["漢字カ", "a" * 2 * SHORTEST, "Größenänderung", "объединение"])
def test_short_pieces_and_those_of_scripts_with_spaces_stay_whole(text: str) -> None:
    assert _narrowed(text.encode(), []) == [text.encode()]


def _save_random_merges(path: Path, seed: int) -> Encoder:
    """A tokenizer whose merges join any neighbours in a text, across characters and inside."""
    rng = random.Random(seed)
    spelled = byte_spellings()
    text = "".join(rng.choices(_CHARACTERS, k=60)).encode()
    tokens, merges = [spelled[byte] for byte in text], []
    vocab = {character: byte for byte, character in enumerate(spelled)}
    for _ in range(40):
        place = rng.randrange(len(tokens) - 1)
        first, second = tokens[place : place + 2]
        tokens[place : place + 2] = [first + second]
        if (first, second) not in merges:
            merges.append((first, second))
            vocab.setdefault(first + second, len(vocab))
    if seed % 3 == 0:
        rng.shuffle(merges)
    encoder = Encoder(models.BPE(vocab, merges))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    path.write_text(encoder.to_str())
    return encoder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return pairs_of(_save_random_merges, tmp_path_factory.mktemp("made"))


@settings(deadline=None)
@given(texts=st.lists(st.text(_CHARACTERS, max_size=60), min_size=1, max_size=8))
def test_cutting_and_merging_gives_what_merging_the_whole_gives(
    pairs: Pairs, texts: list[str]
) -> None:
    assert_equal_ids(pairs, texts)


def test_merges_of_what_no_text_spells_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    slow = _save_random_merges(path, 1)
    spec = json.loads(path.read_text())
    vocab = spec["model"]["vocab"]
    for token in ("\u3042", "\u3042a", "ZZ", "ZZa"):
        vocab[token] = len(vocab)
    spec["model"]["merges"] += [("\u3042", "a"), ("ZZ", "a")]
    path.write_text(json.dumps(spec))
    texts = [_CHARACTERS, _CHARACTERS[::-1] * 3, "ZZa", ""]
    tokens, _ = FastEncoder(Encoder.from_file(str(path)), path).encode(texts, "uint16")
    expected = [token for encoding in slow.encode_batch(texts) for token in encoding.ids]
    assert tokens.tolist() == expected
