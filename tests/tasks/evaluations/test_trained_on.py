import random
from dataclasses import replace

from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.trained_on import covered
from training.items.item import Item

WORDS = [f"w{n}" for n in range(5000)]


def item(name: str, context: str, answer: str, cluster: str = "") -> FrozenItem:
    return FrozenItem(
        item=Item(
            id=name,
            cluster=cluster or name,
            kind="cloze",
            context=context,
            choices=(answer,),
            delimiter=" ",
        )
    )


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def pages(rng: random.Random, number: int = 200) -> list[str]:
    return [sentence(rng, 60) for _ in range(number)]


def known(items: list[FrozenItem], texts: list[str]) -> set[str]:
    return set(covered({"quiz": items}, texts)["quiz"])


def test_planted_items_are_found_whatever_case_punctuation_and_line_breaks() -> None:
    rng = random.Random(1)
    items = [item(f"i{n}", sentence(rng, 30), "right") for n in range(90)]
    texts = pages(rng)
    for n in range(30):
        texts[n] += " " + items[n].text
        texts[n + 30] += "\n" + items[n + 30].text.upper().replace(" ", ",\n ")
    assert known(items, texts) == {f"i{n}" for n in range(60)}


def test_a_few_changed_words_do_not_hide_a_long_item_and_many_do() -> None:
    rng = random.Random(2)
    items = [item(f"i{n}", sentence(rng, 60), "right") for n in range(2)]
    texts = pages(rng)
    for number, changes in ((0, 1), (1, 12)):
        words = items[number].text.split()
        for place in range(0, changes * 5, 5):
            words[place] = "changed"
        texts[number] += " " + " ".join(words)
    shares = covered({"quiz": items}, texts)["quiz"]
    assert set(shares) == {"i0"}
    # 61 words have 49 13-grams, one of which holds the changed first word.
    assert shares["i0"] == 48 / 49


def test_short_items_are_found_as_a_whole_only_and_very_short_ones_never() -> None:
    rng = random.Random(3)
    short = item("short", "the old mill burned in", "autumn")
    tiny = item("tiny", "the old", "mill")
    texts = [*pages(rng), "They say The old mill burned, in AUTUMN of that year."]
    assert known([short, tiny], texts) == {"short"}
    assert known([short, tiny], [*pages(rng), "the old mill burned in winter"]) == set()


def test_a_disjoint_corpus_flags_nothing_and_a_shared_template_neither() -> None:
    rng = random.Random(4)
    template = "answer the following question about rivers and lakes with one single word only"
    items = [item(f"i{n}", f"{template} : {sentence(rng, 20)}", "x") for n in range(50)]
    middle = [replace(i, own_text=i.text.split(":")[1] + " " + template) for i in items]
    texts = [*pages(rng), f"How to ask: {template} ."]
    assert known(items, texts) == set()
    assert known(middle, texts) == set()


def test_the_short_part_behind_a_template_is_what_is_looked_for() -> None:
    rng = random.Random(6)
    items = [item(f"i{n}", f"Question: {sentence(rng, 6)} Answer:", "x") for n in range(8)]
    items.append(item("a", "Question: where does the grey heron nest Answer:", "reeds"))
    text = "I wonder: where does the grey heron nest? Answer: reeds."
    assert known(items, [text]) == {"a"}


def test_tasks_searched_together_find_what_each_finds_alone() -> None:
    rng = random.Random(5)
    one = [item(f"i{n}", sentence(rng, 20), "x") for n in range(20)]
    two = [item(f"i{n}", sentence(rng, 9), "y") for n in range(20)]
    texts = [*pages(rng, 20), one[3].text, two[7].text]
    assert covered({"one": one, "two": two}, texts) == {
        **covered({"one": one}, texts),
        **covered({"two": two}, texts),
    }
