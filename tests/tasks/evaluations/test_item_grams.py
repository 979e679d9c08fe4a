"""The compiled search finds what the rule says, in every script."""

import html
import json
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html.entities import codepoint2name
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluations.escapes import other_readings
from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.item_grams import UNSPACED, ItemGrams, Place, words_of
from tasks.evaluations.item_words import lexicon_of
from tasks.evaluations.trained_on import covered
from training.items.item import Item

# Capitals that grow or depend on what follows, ligatures, full-width forms, marks, digits of other
# scripts, scripts without spaces within and above the basic plane, and what is no text at all.
CHARACTERS = (
    "aB\u00e9_7\u00df\u0130\u03a3\u03c3\u03c2\u01c5\ufb01\u216b\uff21\uff41"
    "\u0663\u0301\u093c\u0939\u0e01\ud55c\u3042\u30a2\u6f22\u3400\uf900"
    "\U00020000\U0001d49c\U0001f600\u00ad\u200d\ufeff\u2019\ud800'-. \n\0</>!"
)
WORDS = [
    "the",
    "Old",
    "\u03a3\u0391\u03a3",
    "\u0130l",
    "stra\u00dfe",
    "x_1",
    "\u6f22\u5b57",
    "\u3042",
    "\ud55c\uad6d",
    "\uff21\uff22",
    "e\u0301",
    "\ud83d",
]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "in capitals, a word a line": lambda text: text.upper().replace(" ", "\n"),
    "with soft hyphens": lambda text: "\u00ad".join(text),
    "with characters without width": lambda text: "\u200b".join(text),
    "with joiners and marks of byte order": lambda text: "\u2060\ufeff".join(text),
    "in full width": lambda text: "".join(
        chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text
    ),
    "in mathematical letters": lambda text: "".join(
        chr(ord(one) + 0x1D41A - ord("a")) if "a" <= one <= "z" else one for one in text
    ),
    "without apostrophes": lambda text: text.replace("'", ""),
    "with curly apostrophes": lambda text: text.replace("'", "\u2019"),
    "emphasised": lambda text: " ".join(f"_{word}_" for word in text.split()),
    "tagged": lambda text: " ".join(f"<b>{word}</b><br/>" for word in text.split()),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_item_is_found_however_it_is_spelled(spelling: str) -> None:
    text = "why doesn't the old ferryman's boat of oak ever sink in the cold river below"
    spelled = SPELLINGS[spelling](text)
    grams = ItemGrams({"quiz": [item("only", text)]})
    assert grams.shares_in(f"said: {spelled} (so)") == {("quiz", "only"): 1.0}
    assert ItemGrams({"quiz": [item("only", spelled)]}).shares_in(text) == {("quiz", "only"): 1.0}


GERMAN = (
    "Der Kapit\u00e4n wu\u00dfte, da\u00df die gro\u00dfe Stra\u00dfe na\u00df und hei\u00df war"
)
TURKISH = (
    "\u0130stanbul'da \u0131\u015f\u0131k, \u0130lgin\u00e7 insanlar\u0131n sessiz "
    "ak\u015famlar\u0131n\u0131 anlat\u0131r bize"
)
GREEK = (
    "\u0397 \u03b3\u03b1\u0390\u03c4\u03b1 \u03c4\u03bf\u03c5 "
    "\u03ba\u03cc\u03c3\u03bc\u03bf\u03c5 \u1fb3 \u03ba\u03b1\u03b9 \u03bf\u03b9 "
    "\u03b4\u03c1\u03cc\u03bc\u03bf\u03b9 \u03c4\u03b7\u03c2"
)
RUSSIAN = (
    "\u0432\u044b\u0441\u043e\u043a\u0438\u0439 \u0437\u0430\u0301\u043c\u043e\u043a "
    "\u0441\u0442\u043e\u0438\u0442 \u043d\u0430 \u0433\u043e\u0440\u0435"
)
CAPITALS: dict[str, Callable[[str], str]] = {
    "as Python has them": str.upper,
    "back in small letters": lambda text: text.upper().lower(),
    "with a capital sharp s": lambda text: text.replace("\u00df", "\u1e9e").upper(),
    "in Turkish": lambda text: text.replace("i", "\u0130").upper(),
    "without marks of stress": lambda text: text.replace("\u0301", ""),
}


@pytest.mark.parametrize("capitals", CAPITALS)
@pytest.mark.parametrize("text", [GERMAN, TURKISH, GREEK, RUSSIAN])
def test_an_item_is_found_in_capitals_whatever_number_of_letters_they_have(
    text: str, capitals: str
) -> None:
    written = composed(CAPITALS[capitals](text))
    grams = ItemGrams({"quiz": [item("only", text)]})
    assert grams.shares_in(f"said: {written} (so)") == {("quiz", "only"): 1.0}
    assert ItemGrams({"quiz": [item("only", written)]}).shares_in(text) == {("quiz", "only"): 1.0}


QUOTED = (
    'Gro\u00dfe "Stra\u00dfen" & <Pl\u00e4tze>:\nwhy doesn\'t\tthe old\u00a0ferryman\r\n'
    "sink C:\\new or \\theta\nin \u6f22\u5b57\u3092\u66f8\u304f \U00020000\U0001f600 "
    "he\u0301 asked\u2028and left/gone\nquickly"
)
ESCAPES: dict[str, Callable[[str], str]] = {
    "in JSON": json.dumps,
    "in JSON without other letters": lambda text: json.dumps({"text": text, "label": 1}),
    "in JSON with letters": lambda text: json.dumps(text, ensure_ascii=False),
    "in JSON with slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "in JSON with capital digits": lambda text: re.sub(
        r"(?<=\\u)\w{4}", lambda found: found[0].upper(), json.dumps(text)
    ),
    "as Python prints it": repr,
    "in HTML": html.escape,
    "in HTML, letters too": lambda text: "".join(
        f"&{codepoint2name[ord(one)]};" if ord(one) in codepoint2name else one for one in text
    ),
    "in HTML by numbers": lambda text: "".join(
        one if one.isascii() and one.isalnum() else f"&#{ord(one)};" for one in text
    ),
    "in HTML by hexadecimal numbers": lambda text: "".join(
        one if one.isascii() and one.isalnum() else f"&#x{ord(one):X};" for one in text
    ),
    "in HTML three times": lambda text: html.escape(html.escape(html.escape(text))),
    "in HTML in JSON": lambda text: json.dumps(html.escape(text)),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_item_is_found_through_the_escapes_of_json_and_html(escape: str) -> None:
    text = composed(QUOTED)
    grams = ItemGrams({"quiz": [item("only", text)]})
    other = "we met \\alpha &amp; nothing else,\\nlong ago"
    texts = [other, f"{other} {ESCAPES[escape](text)} {other}", text, other]
    found = {("quiz", "only"): 1.0}
    assert grams.shares_in_texts(texts) == [{}, found, found, {}]
    assert covered({"quiz": [item("only", text)]}, texts[:2]) == {"quiz": {"only": 1.0}}


@pytest.mark.parametrize(
    "text",
    [
        r"C:\new\temp\user\bin\figures\readme",
        r"let \theta and \nu be \beta of \frac \rho \textbf \xi5 \xba",
        r"the regex \bword\b and \d+\n for \u00e9t\u00e9 or \x41ll",
        "char *a = &lt; &gt; &amp; &copy; &notin; &reg;ister; b",
        "see \\u12 \\ud83d \\uD83D\\u0041 &#; &#xD800; &#99999999; &;one two three",
    ],
)
def test_what_looks_like_an_escape_hides_no_item(text: str) -> None:
    grams = ItemGrams({"quiz": [item("only", text)]})
    assert grams.shares_in(f"so {text} it is") == {("quiz", "only"): 1.0}
    plain = " ".join(words_of(text))
    assert ItemGrams({"quiz": [item("only", plain)]}).shares_in(text) == {("quiz", "only"): 1.0}


@given(st.text(st.sampled_from("\\\\&;#xXuU0dDaAnt\"'\u00e9"), max_size=40), st.text())
def test_reading_escapes_undoes_escaping_and_refuses_no_text(text: str, other: str) -> None:
    for one in (text, other):
        for escaped in (json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]):
            words = words_of(composed(json.loads(f'"{escaped}"')))
            assert words in [words_of(each) for each in (escaped, *other_readings(escaped))]


def question(name: str, query: str, *choices: str) -> FrozenItem:
    return FrozenItem(
        item=Item(id=name, cluster=name, kind="multiple_choice", context=query, choices=choices)
    )


QUERY = "Which old ferryman never rowed his boat across the river"


def test_a_question_is_found_without_its_answers_and_a_part_of_it_is_not() -> None:
    choices = ("Charon", "Jonah", "Noah", "Old Rip van Winkle of the mountains")
    lettered = "\nChoices:\n" + "\n".join(f"{n}. {choice}" for n, choice in enumerate(choices))
    for asked in (question("only", QUERY, *choices), question("only", QUERY + lettered, "0", "1")):
        grams = ItemGrams({"quiz": [asked]})
        for told in (f"Q: {QUERY}\nA: nobody knows", f"{QUERY.upper()} (d) Noah (a) Charon"):
            assert grams.shares_in(told) == {("quiz", "only"): 1.0}
            assert covered({"quiz": [asked]}, ["so", told]) == {"quiz": {"only": 1.0}}
        assert not any(share >= 0.5 for share in grams.shares_in(QUERY[:-6]).values())
        assert covered({"quiz": [asked]}, [QUERY[:-6]]) == {"quiz": {}}


def test_a_long_question_is_found_only_as_a_whole() -> None:
    rng = random.Random(5)
    words = [f"w{rng.getrandbits(20)}" for _ in range(60)]
    grams = ItemGrams({"quiz": [question("only", " ".join(words[:30]), " ".join(words[30:]))]})
    assert grams.shares_in(" ".join(words[:30])) == {("quiz", "only"): 1.0}
    assert grams.shares_in(" ".join(words[:29]))["quiz", "only"] < 0.5


def test_a_question_that_many_items_ask_is_no_evidence() -> None:
    asked = "Which of these sentences is the right one here?"
    items = [question(f"i{n}", f"{asked}\nA. x{n} y{n} z{n} v{n} w{n}", "A", "B") for n in range(9)]
    grams = ItemGrams({"quiz": items})
    assert grams.shares_in(asked) == {}
    assert grams.shares_in(items[3].text) == {("quiz", "i3"): 1.0}


def test_a_line_of_a_passage_is_no_question() -> None:
    passage = item("only", f"{QUERY}\n" + " ".join(f"w{n}" for n in range(60)))
    assert ItemGrams({"read": [passage]}).questions == {}


def test_an_item_in_decomposed_letters_is_found_in_composed_ones() -> None:
    text = "f\u00fcnf gr\u00fcne \u00c4pfel h\u00e4ngen \u00fcber dem T\u00fcrb\u00f6gen"
    decomposed = item("only", unicodedata.normalize("NFD", text))
    assert ItemGrams({"quiz": [decomposed]}).shares_in(text) == {("quiz", "only"): 1.0}


@pytest.mark.parametrize("opened", ["<", "<b", "</", "<b <i", "<\u00e9>", "<b\u00a0", "2 <3> <"])
def test_what_looks_like_a_tag_hides_no_item(opened: str) -> None:
    text = "one two three four five six"
    grams = ItemGrams({"quiz": [item("only", text)]})
    assert grams.shares_in(f"{opened} {text} > and so on") == {("quiz", "only"): 1.0}


def composed(text: str) -> str:
    """As every document is before anything is looked for."""
    return unicodedata.normalize("NFC", text)


def item(name: str, text: str, cluster: str = "") -> FrozenItem:
    context, answer = text[: len(text) // 2], text[len(text) // 2 :]
    return FrozenItem(
        item=Item(
            id=name, cluster=cluster or name, kind="cloze", context=context, choices=(answer,)
        )
    )


def shares_by_the_rule(tasks: Mapping[str, Sequence[FrozenItem]], text: str) -> dict[Place, float]:
    """The rule as it is told, n-grams as tuples of words."""
    words = words_of(text)
    found: dict[Place, float] = {}
    for task, items in tasks.items():
        for name, (n, own) in own_by_the_rule(items).items():
            share = len(own & ngrams(words, n)) / len(own)
            if share:
                found[task, name] = share
    return found


def own_by_the_rule(
    items: Sequence[FrozenItem],
) -> dict[str, tuple[int, set[tuple[str, ...]]]]:
    words = {each.item.id: words_of(composed(each.text)) for each in items}
    start = 0
    if len(words) >= 8:
        same = takewhile(lambda column: len(set(column)) == 1, zip(*words.values(), strict=False))
        start = len(list(same))
    grams: dict[str, tuple[int, set[tuple[str, ...]]]] = {}
    clusters: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for each in items:
        own = words[each.item.id][start:]
        unspaced = sum(word in "\u3042\u30a2\u6f22\u5b57\u3400\uf900\U00020000" for word in own)
        if len(own) < (10 if 2 * unspaced > len(own) else 5):
            continue
        n = len(own) if len(own) < 15 else min(13, len(own) // 2)
        grams[each.item.id] = n, ngrams(own, n)
        for gram in grams[each.item.id][1]:
            clusters[gram].add(each.item.cluster)
    return {
        name: (n, {gram for gram in every if len(clusters[gram]) == 1} or every)
        for name, (n, every) in grams.items()
    }


def ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[place : place + n]) for place in range(len(words) - n + 1)}


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(sentences, min_size=1, max_size=12), st.data())
def test_shares_are_those_of_the_rule_whatever_the_script(
    texts: list[str], data: st.DataObject
) -> None:
    tasks = {
        "one": [item(f"i{n}", text, f"c{n // 2}") for n, text in enumerate(texts)],
        "two": [item(f"i{n}", text) for n, text in enumerate(texts[::2])],
    }
    pieces = st.one_of(st.sampled_from(texts), sentences, st.text(CHARACTERS, max_size=8))
    joined = data.draw(st.lists(st.lists(pieces, max_size=6).map(" ".join), max_size=5))
    joined = [composed(text) for text in joined]
    joined += [joined[0].upper(), ""] if joined else []
    expected = [shares_by_the_rule(tasks, text) for text in joined]
    grams = ItemGrams(tasks)
    assert grams.shares_in_texts(joined) == expected
    assert [grams.shares_in(text) for text in joined] == expected


@settings(max_examples=300, deadline=None)
@given(st.text(CHARACTERS, max_size=30) | st.text(max_size=30))
def test_an_item_is_found_whatever_characters_it_has(text: str) -> None:
    only = item("only", f"{text} one two three four five six seven eight nine ten")
    grams = ItemGrams({"quiz": [only]})
    assert grams.shares_in(composed(f"before {only.text} after")) == {("quiz", "only"): 1.0}
    nearly = composed(f"{text} . one two three four five six seven eight nine")
    assert grams.shares_in(nearly) == shares_by_the_rule({"quiz": [only]}, nearly)


def test_every_character_is_cut_and_folded_as_by_the_pattern() -> None:
    lexicon = lexicon_of([])
    table = lexicon.folded
    for code in range(0x110000):
        found = words_of(chr(code))
        if table[code] >> 28 & 1:
            letters = lexicon.longer[int(table[code]) & ((1 << 28) - 1)]
            assert found == ["".join(chr(letter) for letter in letters if letter)]
            continue
        kind = (2 if re.match(f"[{UNSPACED}]", found[0]) else 1) if found else 0
        is_unseen = words_of(f"a{chr(code)}b") == ["ab"]
        assert [int(table[code]) >> bit & 1 for bit in (31, 30, 29)] == [
            kind == 1,
            kind == 2,
            is_unseen,
        ]
        assert not found or int(table[code]) & ((1 << 28) - 1) == ord(found[0])


def test_the_ngrams_of_a_text_come_by_length_each_once() -> None:
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(50)}" for _ in range(size)) for size in (6, 9, 40)]
    grams = ItemGrams({"quiz": [item(f"i{n}", text) for n, text in enumerate(texts)]})
    found = dict(grams.found_in(" . ".join(texts * 2)))
    assert list(found) == sorted({n for n, _ in grams.own.values()})
    for n, hashes in found.items():
        own = np.concatenate([every for length, every in grams.own.values() if length == n])
        assert hashes.tolist() == sorted(set(own.tolist()))


def test_many_hits_of_many_texts_are_told_apart() -> None:
    rng = random.Random(1)
    items = [
        item(f"i{n}", " ".join(f"w{rng.randrange(3000)}" for _ in range(60))) for n in range(30)
    ]
    grams = ItemGrams({"quiz": items})
    texts = [items[n % 30].text + " and " + items[n * 7 % 30].text for n in range(100)]
    assert [set(found) for found in grams.shares_in_texts(texts)] == [
        {("quiz", f"i{n % 30}"), ("quiz", f"i{n * 7 % 30}")} for n in range(100)
    ]
