"""A document that gives an item away is dropped, whatever its spelling; others are not."""

import json
import random
from pathlib import Path

import pytest

from tasks.decontamination.screen import LeakFinder, LeakRecord, Sought, read_sought
from tasks.documents import Document
from tasks.evaluations.config import TaskConfig
from tasks.evaluations.frozen import FrozenItem
from training.items.item import Item

WORDS = [f"w{n}" for n in range(3000)]
IDEOGRAPHS = [chr(0x4E00 + n) for n in range(2000)]


def words(rng: random.Random, number: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(number)]


def item(name: str, text: str) -> FrozenItem:
    context, answer = text[: len(text) // 2], text[len(text) // 2 :]
    return FrozenItem(
        item=Item(id=name, cluster=name, kind="cloze", context=context, choices=(answer,))
    )


def dropped(items: list[FrozenItem], texts: list[str]) -> set[int]:
    """Places of the texts that the screen drops."""
    sought = Sought(min_share=0.5, tasks={"quiz": tuple(items)}, files={"quiz": "f.json"})
    documents = (
        Document(
            id=str(n),
            cluster=str(n),
            text=text,
            source="web",
            uri="x",
            position=n,
            domain="web",
            licence="",
            time="",
        )
        for n, text in enumerate(texts)
    )
    found = LeakFinder(sought).leaks_in(list(documents))
    assert len(found) == len(texts)
    return {n for n, leaks in enumerate(found) if leaks}


def test_planted_leaks_are_dropped_and_nothing_else() -> None:
    rng = random.Random(1)
    items = [item(f"i{n}", " ".join(words(rng, 40))) for n in range(120)]
    texts = [" ".join(words(rng, 120)) for _ in range(500)]
    for n in range(30):
        text = items[n].text
        texts[n] += f" {text} the end"
        texts[n + 30] += "\n" + text.upper().replace(" ", ",\n  ") + "!"
        # The first 30 of 40 words: 18 of 28 13-grams.
        texts[n + 60] += " " + " ".join(items[n + 60].text.split()[:30])
        # The first 20: 8 of them.
        texts[n + 90] += " " + " ".join(items[n + 90].text.split()[:20])
    assert dropped(items, texts) == set(range(90))


def test_what_is_spread_over_documents_gives_nothing_away() -> None:
    rng = random.Random(2)
    all_words = words(rng, 60)
    halves = [" ".join(all_words[:30]), " ".join(all_words[30:])]
    assert dropped([item("i", " ".join(all_words))], halves) == set()
    assert dropped([item("i", " ".join(all_words))], [" ".join(halves)]) == {0}


def test_a_short_item_is_matched_as_a_whole_and_a_shared_phrase_is_no_evidence() -> None:
    short = item("short", "the old mill burned in autumn")
    long = item("long", "the old mill burned in autumn " + " ".join(words(random.Random(3), 30)))
    texts = ["It is told: the OLD mill burned, in autumn.", "the old mill burned in winter"]
    assert dropped([short], texts) == {0}
    assert dropped([long], texts) == set()


def test_of_scripts_without_spaces_every_character_counts_as_a_word() -> None:
    rng = random.Random(4)

    def chinese(number: int) -> str:
        return "".join(rng.choice(IDEOGRAPHS) for _ in range(number))

    items = [item(f"i{n}", chinese(40)) for n in range(20)]
    texts = [chinese(200) for _ in range(60)]
    for n in range(10):
        texts[n] = texts[n][:100] + items[n].text + texts[n][100:]
        text = items[n + 10].text
        texts[n + 10] += "\u3002\n".join(text[k : k + 8] for k in range(0, 40, 8))
    assert dropped(items, texts) == set(range(20))
    # Nine characters stand in many texts.
    assert dropped([item("tiny", chinese(9))], [texts[0]]) == set()


def test_leaks_are_listed_with_task_item_and_share(tmp_path: Path) -> None:
    rows = [{"context": f"after {n} comes the number called", "continuation": "x"} for n in (1, 2)]
    file = tmp_path / "quiz.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskConfig(name="quiz", uri=str(file), kind="cloze")
    sought = read_sought([task], min_share=0.5)
    document = Document(
        id="web/7",
        cluster="7",
        text="and so, after 2 comes the number called x, of course",
        source="web",
        uri="x",
        position=7,
        domain="web",
        licence="",
        time="",
    )
    (leaks,) = LeakFinder(sought).leaks_in([document])
    record = LeakRecord(sought)
    record.add(leaks)
    (leak,) = record.leaks
    assert (leak.document, leak.task, leak.share) == ("web/7", "quiz", 1.0)
    (checked,) = record.checked()
    assert (checked.task, checked.documents_dropped) == ("quiz", 1)
    record.write(tmp_path / "leaks.jsonl")
    assert json.loads((tmp_path / "leaks.jsonl").read_text())["item"] == leak.item


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    task = TaskConfig(name="quiz", uri=str(tmp_path / "gone.jsonl"), kind="cloze")
    with pytest.raises(ValueError, match=r"gone\.jsonl"):
        read_sought([task], min_share=0.5)
