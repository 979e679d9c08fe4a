"""Texts on which an encoder is most likely to be wrong, the same ones every time."""

# ruff: noqa: RUF001  characters that look like others are the point

import random
from collections.abc import Iterator, Sequence

_SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
_SIGNS = "!?.,;:-_()[]{}<>|/\\\"'`´‘’“”«»…—#$%&*+=@^~€§°•。、！？「」🙂👍\u200d\ufe0f🏽"
_DIGITS = "0123456789²½①٣४৫Ⅷ〇一"
_LETTERS = "aZéßſİıŁñçΩжЯשعकไ한ㄱあア漢字𝒜𐍈ªʰ"
_MARKS = "\u0300\u0301\u0327\u0338\u0345\u05b0\u064b\u093c\u094d\u0e31\u3099\u309a\u1161\u11a8"
_WORDS = [
    "the",
    "of",
    "Zug",
    "maison",
    "東京",
    "return",
    "self",
    "x1",
    "naïve",
    "Straße",
    "don't",
    "İstanbul",
    "ﬁn",
    "ÅÅ",
    "2024-11-29",
    "a.b",
]
_CONTRACTIONS = ["s", "t", "re", "ve", "m", "ll", "d", "ſ", "l", "r", "v", "se", "lL", "rE"]
_BLOCKS = (
    (0x00, 0x80), (0x00, 0x250), (0x250, 0x600), (0x600, 0x1000), (0x1000, 0x2000),
    (0x2000, 0x2C00), (0x2E80, 0x3400), (0x3400, 0xA000), (0xA000, 0xD800), (0xE000, 0x10000),
    (0x10000, 0x20000), (0x1F000, 0x1FB00), (0x20000, 0x110000),
)  # fmt: skip
_EDGES = "\x00\x01\x7f\x80\xff\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff"
_RUNS = (1, 2, 3, 4, 7, 8, 9, 14, 15, 16, 17, 24, 30, 31, 32, 33, 63, 64, 100, 127, 128, 129, 300)


def trial_texts(vocabulary: Sequence[str], specials: Sequence[str], count: int) -> Iterator[str]:
    """``count`` texts after a few fixed ones that hold every code point of the first two planes.

    Args:
        vocabulary: What tokens spell, so far as that is text.
        specials: Texts of special and of added tokens.
        count: How many.
    """
    yield from ("", " ", "\n", "'", "a")
    for first in range(0, 0x20000, 0x400):
        codes = [code for code in range(first, first + 0x400) if not 0xD800 <= code < 0xE000]
        yield "".join(f"{chr(code)}a {chr(code)}" for code in codes)
    rng = random.Random(20241129)
    kinds = (
        _characters,
        _contractions,
        _runs,
        _any_code_points,
        lambda rng: _mixture(rng, specials),
        lambda rng: _tokens(rng, vocabulary),
    )
    for number in range(count):
        yield kinds[number % len(kinds)](rng)


def _characters(rng: random.Random) -> str:
    """Characters of all kinds in short alternation."""
    pools = (_SPACES, _SIGNS, _DIGITS, _LETTERS, _MARKS, _EDGES)
    return "".join(
        "".join(rng.choices(rng.choice(pools), k=rng.choice((1, 1, 1, 2, 3, 5))))
        for _ in range(rng.randint(1, 60))
    )


def _mixture(rng: random.Random, specials: Sequence[str]) -> str:
    """Words, white space, signs, and what spells special tokens, whole and broken."""
    parts: list[str] = []
    for _ in range(rng.randint(1, 80)):
        way = rng.random()
        if way < 0.5:
            parts.append(rng.choice(_WORDS))
        elif way < 0.6 and specials:
            special = rng.choice(specials)
            cut = rng.randint(0, len(special))
            parts.append(rng.choice((special, special[:cut], special[cut:], special.upper())))
        else:
            parts.append("".join(rng.choices(_SIGNS + _DIGITS, k=rng.randint(1, 4))))
        parts.append("".join(rng.choices(" \n\t  ", k=rng.choice((0, 1, 1, 1, 2, 4)))))
    return "".join(parts)


def _contractions(rng: random.Random) -> str:
    """Apostrophes of both kinds before what may be a contraction, in every case."""
    parts: list[str] = []
    for _ in range(rng.randint(1, 40)):
        tail = "".join(rng.choice((c.lower(), c.upper())) for c in rng.choice(_CONTRACTIONS))
        head = rng.choice(("", " ", "\n", "a", "I", "7", "(", "'", "é", "字"))
        parts.append(
            head + rng.choice(("'", "'", "'", "’")) + tail + rng.choice(("", "", "x", " "))
        )
    return "".join(parts)


def _runs(rng: random.Random) -> str:
    """Runs of one or two characters, of lengths about which the kernel changes its way."""
    parts: list[str] = []
    for _ in range(rng.randint(1, 6)):
        pool = rng.choice((_SPACES, _SIGNS, _DIGITS, _LETTERS, _LETTERS, "ab", "a1", " \n", "\r\n"))
        some = "".join(rng.choices(pool, k=rng.choice((1, 1, 2, 20))))
        length = rng.choice(_RUNS)
        parts.append((some * length)[:length])
    return "".join(parts)


def _tokens(rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Tokens in a row, so that merges meet that no text had together."""
    glue = rng.choice(("", "", " ", "'"))
    return glue.join(rng.choices(vocabulary or _WORDS, k=rng.randint(1, 60)))


def _any_code_points(rng: random.Random) -> str:
    """Code points of one or two blocks, assigned or not."""
    blocks = rng.choices(_BLOCKS, k=rng.choice((1, 2)))
    codes = [rng.randrange(*rng.choice(blocks)) for _ in range(rng.randint(1, 60))]
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
