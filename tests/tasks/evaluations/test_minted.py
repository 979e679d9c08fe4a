import random
from pathlib import Path

import pytest

from tasks.evaluations.canaries import canary_words, mint_canaries
from tasks.evaluations.cloze import HeldOutText, mint_cloze
from training.tokenizer_training import train_tokenizer

FILLER = "then they went along the river and past the hill to where the road turned and"
STORY = (
    "The letter that Marlinspike wrote in the year 1874 was kept for long in a box of the mill. "
    "It said little of the flood, and less of what they had lost there. But the miller knew it "
    "by heart, and when he was asked he spoke of a man called Marlinspike who came with the water. "
    "Nobody believed him. In the church the book had it too, under 1874 and in another hand."
)


def document(name: str, text: str, cluster: str = "") -> HeldOutText:
    return HeldOutText(document=name, cluster=cluster or name, text=text)


def test_the_rare_name_and_the_number_that_stand_earlier_are_asked_for() -> None:
    plain = [document(f"d{n}", " ".join([FILLER] * 6)) for n in range(10)]
    made = mint_cloze([document("story", STORY, "book"), *plain], 100)
    assert {item.item.choices[0] for item in made} == {"Marlinspike", "1874"}
    for frozen in made:
        item = frozen.item
        assert item.kind == "cloze"
        assert item.cluster == "book"
        assert item.choices[0] in item.context
        assert STORY.startswith(item.context + item.continuation_of(0))


def test_the_same_documents_in_another_order_give_the_same_items() -> None:
    rng = random.Random(1)
    documents = [
        document(f"d{n}", f"The ship {name} sailed. " + " ".join([FILLER] * 2) + f" the {name} .")
        for n in range(40)
        for name in [f"Name{rng.randrange(10**6)}x"]
    ]
    made = mint_cloze(documents, 30)
    assert len(made) == 30
    assert mint_cloze(documents[::-1], 30) == made
    assert mint_cloze(documents, 20) == made[:20]


def test_every_document_has_its_item_before_any_has_a_second() -> None:
    names = ["Abercorn", "Bellhaven", "Cromarty"]
    told = " ".join(f"He met {name} there." for name in names)
    documents = [document(f"d{n}", f"{told} {FILLER} {told}") for n in range(4)]
    # A name in all four documents is not rare; with its own number it is in one only.
    documents = [
        document(d.document, d.text.replace("Abercorn", f"Abercorn{n}").replace("Crom", f"Crom{n}"))
        for n, d in enumerate(documents)
    ]
    made = mint_cloze(documents, 100)
    assert [item.item.cluster for item in made[:4]] != ["d0"] * 4
    assert {item.item.cluster for item in made[:4]} == {"d0", "d1", "d2", "d3"}
    assert not any("Bellhaven" in item.item.choices for item in made)


def test_words_of_many_documents_and_documents_without_a_repeated_word_give_nothing() -> None:
    common = [document(f"d{n}", " ".join([FILLER] * 6) + " Everywhere") for n in range(10)]
    assert mint_cloze(common, 10) == ()
    assert mint_cloze([], 10) == ()


WORDS = [a + b for a in ("bri", "cla", "dro", "fle", "gru", "hol", "kni", "mos", "pra") for b in
         ("ck", "nd", "sh", "rt", "mp", "lk", "ft", "st")]  # fmt: skip


def test_canaries_are_answered_by_what_stands_before() -> None:
    made = mint_canaries(WORDS, 150)
    assert [len(items) for items in made.values()] == [150] * 3
    for frozen in made["canary-copy-1"]:
        words = frozen.item.context.split()
        known = len(words) - 8
        assert words[8:] == words[:known]
        assert frozen.item.choices[frozen.item.gold] == words[known]
    for frozen in made["canary-induction-1"]:
        words = frozen.item.context.split()
        place = words.index(words[-1])
        assert len(set(words)) == len(words) - 1
        assert frozen.item.choices[frozen.item.gold] == words[place + 1]
        assert len(set(frozen.item.choices)) == 8
    for frozen in made["canary-ordering-1"]:
        *told, asked = frozen.item.context.split("\n")
        assert all(line.split(" : ")[1].split() == sorted(line.split(" : ")[0].split())
                   for line in told)  # fmt: skip
        right = frozen.item.choices[frozen.item.gold].split()
        assert right == sorted(asked.removesuffix(" :").split())
        assert len(frozen.item.choices) == 6


def test_canaries_are_a_fixed_set_and_the_gold_is_nowhere_in_particular() -> None:
    made = mint_canaries(WORDS, 150)
    assert mint_canaries(WORDS, 150) == made
    assert mint_canaries(WORDS, 20)["canary-copy-1"] == made["canary-copy-1"][:20]
    golds = [item.item.gold for item in made["canary-copy-1"]]
    assert {golds.count(place) > 5 for place in range(8)} == {True}


def test_a_vocabulary_without_words_has_no_canaries(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["abc"], tmp_path / "tiny", vocab_size=260)
    assert mint_canaries(canary_words(tokenizer), 150) == {}
    assert mint_canaries(WORDS, 0) == {}


def test_the_words_of_canaries_are_one_token_each(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choice(WORDS) for _ in range(50)) for _ in range(50)]
    tokenizer = train_tokenizer(texts, tmp_path / "words", vocab_size=600)
    words = canary_words(tokenizer)
    assert set(WORDS) <= set(words)
    assert {len(tokens) for tokens in tokenizer.encode_batch([f" {w}" for w in words])} == {1}


@pytest.mark.parametrize("name", ["copy", "induction", "ordering"])
def test_golden_canaries(name: str) -> None:
    first = mint_canaries(WORDS, 1)[f"canary-{name}-1"][0].item
    assert (first.context, first.choices[first.gold]) == GOLDEN[name]


GOLDEN = {
    "copy": (
        "knish clart brimp drock flert clast droft drosh knish clart brimp drock flert clast",
        "droft",
    ),
    "induction": (
        "clart mosmp moslk prart dromp praft drost mosck drond holrt grump mosrt mosst mosft "
        "knimp fleft clalk fleck flert flest hollk brift prast holst holrt",
        "grump",
    ),
    "ordering": (
        "drolk drort knind : drolk drort knind\nflelk grump clalk : clalk flelk grump\n"
        "prart grush gruft : gruft grush prart\nmosst knift holst : holst knift mosst\n"
        "drort drolk brilk :",
        "brilk drolk drort",
    ),
}
