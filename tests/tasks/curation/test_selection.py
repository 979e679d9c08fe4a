"""Annotations for later selection: what they find, and that they drop nothing."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.curate import CurateConfig, apply_rules
from tasks.curation.alignment import AlignmentRules, align
from tasks.curation.config import DomainRules
from tasks.curation.importance import ImportanceRules, log_ratios, log_weights
from tasks.curation.learn import learn_from
from tasks.curation.text_statistics import COLUMNS, StatisticsRules, count_statistics
from tasks.documents import Document
from tests.tasks.curation.planted import words

_COMMON = words(400)
_WANTED = words(60, skip=500)


def texts(count: int, seed: int, *, wanted: float, least: int = 40, most: int = 300) -> list[str]:
    """Texts of common words, with a share of words of the target."""
    rng = random.Random(seed)

    def word() -> str:
        return rng.choice(_WANTED if rng.random() < wanted else _COMMON)

    return [" ".join(word() for _ in range(rng.randint(least, most))) for _ in range(count)]


def pool() -> tuple[list[str], list[bool]]:
    """A tenth of the target's kind among others, of all lengths."""
    mixed = texts(60, 1, wanted=0.3), texts(540, 2, wanted=0.02)
    return [*mixed[0], *mixed[1]], [True] * 60 + [False] * 540


def precision(scores: np.ndarray, is_wanted: list[bool]) -> float:
    """Of the best documents, as many as are wanted, the share that is."""
    best = np.argsort(-scores, kind="stable")[: sum(is_wanted)]
    return float(np.mean(np.array(is_wanted)[best]))


def test_importance_weights_find_the_documents_of_the_target_at_every_length() -> None:
    documents, is_wanted = pool()
    ratios = log_ratios(texts(100, 3, wanted=0.3), documents)
    found = log_weights(documents, ratios)
    means = found["importance_log_weight"] / found["importance_ngrams"]
    assert precision(found["importance_log_weight"], is_wanted) >= 0.95
    assert precision(means, is_wanted) >= 0.95
    others = ~np.array(is_wanted)
    lengths = np.array([len(text) for text in documents])
    assert abs(np.corrcoef(means[others], lengths[others])[0, 1]) < 0.2


def test_an_importance_weight_is_the_ratio_of_the_two_probabilities() -> None:
    # Of equal sets every n-gram is as likely in both.
    same = texts(20, 4, wanted=0.1)
    assert log_weights(same, log_ratios(same, same))["importance_log_weight"].tolist() == [0] * 20
    # One word: 1 of 1 in the target, none of 1 in random, with one more of each bucket.
    ratios = log_ratios(["alpha"], ["omega"])
    found = log_weights(["alpha", "omega", "", "alpha alpha"], ratios)
    assert found["importance_log_weight"][:3] == pytest.approx([np.log(2), -np.log(2), 0])
    assert found["importance_ngrams"].tolist() == [1, 1, 0, 3]


def test_compression_finds_the_documents_of_the_target_among_those_of_their_length() -> None:
    alike = {"least": 200, "most": 220}
    documents = [*texts(20, 5, wanted=0.8, **alike), *texts(180, 6, wanted=0.02, **alike)]
    is_wanted = [True] * 20 + [False] * 180
    aligned = align(documents, texts(8, 7, wanted=0.8, **alike))
    assert precision(aligned, is_wanted) >= 0.95
    # Not the published default, which compresses nothing and so scores the length alone.
    lengths = np.array([len(text) for text in documents])
    assert abs(np.corrcoef(aligned, lengths)[0, 1]) < 0.5


def test_a_text_is_nearest_to_itself_and_an_empty_one_has_a_score() -> None:
    documents = texts(5, 8, wanted=0.2)
    for text in documents:
        scores = align([text, *documents, ""], [text])
        assert scores[0] == scores.max() > 0.9
        assert np.isfinite(scores).all()


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_statistics_are_of_each_text_alone_and_bound_one_another(given_texts: list[str]) -> None:
    counts = count_statistics(given_texts)
    for text, row in zip(given_texts, counts, strict=True):
        of = dict(zip(COLUMNS, row.tolist(), strict=True))
        assert of["characters"] == len(text) <= of["bytes"] == len(text.encode())
        assert of["distinct_words"] <= of["words"]
        assert of["distinct_pairs"] <= max(0, of["words"] - 1)
        assert row.tolist() == count_statistics([text])[0].tolist()


def test_statistics_tell_repetition() -> None:
    repeated, varied = count_statistics(["one two three\n\n" * 50, " ".join(words(150))])
    assert repeated.tolist()[3:] == [50, 150, 3, 3]
    assert varied.tolist()[3:] == [1, 150, 150, 149]
    assert repeated[2] * 10 < repeated[1]


def test_they_are_annotated_and_nothing_is_dropped_for_them(tmp_path: Path) -> None:
    for name, share in (("target", 0.3), ("random", 0.02)):
        lines = (json.dumps({"text": text}) for text in texts(20, 9, wanted=share))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    target, anything = str(tmp_path / "target.jsonl"), str(tmp_path / "random.jsonl")
    rules = DomainRules(
        statistics=StatisticsRules(),
        importance=ImportanceRules(target=target, random=anything),
        alignment=AlignmentRules(target=target),
    )
    config = CurateConfig(domains={"*": rules})
    documents = [
        Document(
            id=str(number),
            cluster="",
            text=text,
            source="s",
            uri="",
            position=number,
            domain="web",
            licence="",
            time="",
        )
        for number, text in enumerate(texts(10, 10, wanted=0.1))
    ]
    ruled, reasons, [(places, numbers)] = apply_rules(
        documents, config, learn_from(config.domains.values())
    )
    assert (ruled, reasons, list(places)) == (documents, [""] * 10, list(range(10)))
    assert set(config.annotation_columns) == set(numbers)
