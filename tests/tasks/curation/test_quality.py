"""The classifier tells good from random, to the bit the same, and nothing else moves a score."""

import json
import math
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.curate import CurateConfig, apply_rules
from tasks.curation.annotate import SCORERS, annotate, judge
from tasks.curation.config import DomainRules
from tasks.curation.learn import learn_from
from tasks.curation.learned import sample
from tasks.curation.linear import logistic
from tasks.curation.quality import QualityModel, QualityRules, score_quality, train_quality
from tasks.documents import Document
from tests.tasks.curation.planted import words

_LOW = "quality:low_score"
_COMMON = words(200)
_GOOD, _BAD = words(40, skip=300), words(40, skip=400)
_DOCUMENT = Document(
    id="1", cluster="", text="", source="s", uri="", position=0, domain="web", licence="", time=""
)


def texts(kind: list[str], count: int, seed: int, share: float = 0.1) -> list[str]:
    """Common words with some of a kind among them."""
    rng = random.Random(seed)
    return [
        " ".join(
            rng.choice(kind if rng.random() < share else _COMMON)
            for _ in range(rng.randint(20, 80))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model() -> QualityModel:
    return train_quality(texts(_GOOD, 300, 1), texts(_BAD, 300, 2))


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    return str(path)


def test_unseen_documents_of_both_kinds_are_told_apart(model: QualityModel) -> None:
    good = score_quality(texts(_GOOD, 200, 3), model)["quality_score"]
    bad = score_quality(texts(_BAD, 200, 4), model)["quality_score"]
    assert np.mean(good[:, None] > bad[None, :]) > 0.95
    assert model.auc > 0.95


def test_where_there_is_nothing_to_tell_apart_the_model_says_so() -> None:
    same = train_quality(texts(_GOOD, 300, 5), texts(_GOOD, 300, 6))
    assert 0.35 < same.auc < 0.65


def test_a_length_by_itself_moves_no_score(model: QualityModel) -> None:
    # Words in order, so that ten times the text has the same pairs.
    text = " ".join(_GOOD[:5] + _COMMON[:45])
    once, often = score_quality([text, " ".join([text] * 10)], model)["quality_score"]
    assert once == pytest.approx(often, abs=0.02)


def test_the_same_texts_in_any_order_give_the_same_bits(model: QualityModel) -> None:
    good, bad = texts(_GOOD, 300, 1), texts(_BAD, 300, 2)
    again = train_quality(good[::-1], bad[100:] + bad[:100])
    assert again.weights.tobytes() == model.weights.tobytes()
    assert (again.bias, again.auc) == (model.bias, model.auc)


def test_more_random_documents_than_good_ones_do_not_move_the_middle() -> None:
    lopsided = train_quality(texts(_GOOD, 100, 1), texts(_BAD, 2000, 2))
    good = score_quality(texts(_GOOD, 200, 3), lopsided)["quality_score"]
    bad = score_quality(texts(_BAD, 200, 4), lopsided)["quality_score"]
    assert np.mean(good) > 0.5 > np.mean(bad)


def test_the_share_that_is_kept_of_random_documents_is_the_one_asked_for(
    model: QualityModel,
) -> None:
    fresh = score_quality(texts(_BAD, 2000, 7), model)
    for keep in (0.1, 0.5, 1.0):
        rules = DomainRules(quality=QualityRules(reference="g", random="r", keep=keep))
        reasons = judge(fresh, ["web"] * 2000, {"web": rules})
        assert reasons.count("") / 2000 == pytest.approx(keep, abs=0.1)


@pytest.mark.parametrize(("score", "reason"), [(0.5, ""), (np.nextafter(0.5, 0), _LOW)])
def test_a_score_on_the_threshold_is_kept_and_one_below_is_dropped(
    score: float, reason: str
) -> None:
    rules = DomainRules(quality=QualityRules(reference="g", random="r", min_score=0.5))
    assert judge({"quality_score": np.array([score])}, ["web"], {"web": rules}) == [reason]


def test_without_a_threshold_nothing_is_dropped(model: QualityModel) -> None:
    rules = {"web": DomainRules(quality=QualityRules(reference="g", random="r"))}
    numbers = score_quality(texts(_BAD, 20, 8), model)
    assert judge(numbers, ["web"] * 20, rules) == [""] * 20


def test_a_text_without_a_word_has_a_score(model: QualityModel) -> None:
    found = score_quality(["", "...", "word"], model)
    assert found["quality_score"][0] == found["quality_score"][1]
    assert np.isfinite(found["quality_score"]).all()


@given(st.floats(-60, 60))
def test_the_logistic_function_is_right_to_a_few_units_in_the_last_place(value: float) -> None:
    right = 1 / (1 + math.exp(-min(max(value, -40), 40)))
    assert logistic(value) == pytest.approx(right, rel=4e-16)


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(1, 10), st.randoms())
def test_a_sample_does_not_depend_on_the_order_and_holds_nothing_twice(
    given_texts: list[str], count: int, rng: random.Random
) -> None:
    shuffled = rng.sample(given_texts, len(given_texts))
    found = sample(given_texts, count, 100)
    assert found == sample(shuffled, count, 100)
    assert len(found) == len(set(found)) == min(count, len(set(given_texts)))
    assert set(found) <= set(given_texts)


def test_rules_are_applied_with_what_was_learned_from_their_files(tmp_path: Path) -> None:
    rules = QualityRules(
        reference=write(tmp_path / "good.jsonl", texts(_GOOD, 150, 1)),
        random=write(tmp_path / "random.jsonl", texts(_BAD, 150, 2)),
        min_score=0.5,
    )
    config = CurateConfig(domains={"web": DomainRules(quality=rules)})
    learned = learn_from(config.domains.values())
    assert list(learned.digests) == [rules.reference, rules.random]
    document = Document(
        id="1",
        cluster="1",
        text="",
        source="s",
        uri="",
        position=0,
        domain="web",
        licence="",
        time="",
    )
    documents = [
        replace(document, text=text) for text in (*texts(_GOOD, 20, 9), *texts(_BAD, 20, 9))
    ]
    reasons = apply_rules(documents, config, learned)[1]
    assert reasons[:20].count("") > 15
    assert reasons[20:].count("quality:low_score") > 15
    # A batch of one has the same score: batches may be cut anywhere.
    assert [apply_rules([each], config, learned)[1][0] for each in documents] == reasons


def test_a_changed_text_of_a_named_file_changes_the_digest(tmp_path: Path) -> None:
    good, bad = texts(_GOOD, 150, 1), texts(_BAD, 150, 2)
    rules = QualityRules(
        reference=write(tmp_path / "good.jsonl", good), random=write(tmp_path / "r.jsonl", bad)
    )
    before = learn_from([DomainRules(quality=rules)]).digests
    assert learn_from([DomainRules(quality=rules)]).digests == before
    write(tmp_path / "good.jsonl", [*good[:-1], "another"])
    after = learn_from([DomainRules(quality=rules)]).digests
    assert [uri for uri in before if before[uri] != after[uri]] == [rules.reference]


def test_what_cannot_be_learned_from_is_told_with_its_field(tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", ["one text"] * 500)
    missing = DomainRules(quality=QualityRules(reference=str(tmp_path / "no.jsonl"), random=few))
    with pytest.raises(ValueError, match=r"no file matches .*no\.jsonl"):
        learn_from([missing])
    with pytest.raises(ValueError, match=r"quality\.reference: .* has 1 different documents"):
        learn_from([DomainRules(quality=QualityRules(reference=few, random=few))])
    with pytest.raises(ValueError, match="nothing was learned"):
        annotate(["text"], [""], missing)


def _columns() -> Iterator[str]:
    for scorer in SCORERS:
        yield from scorer.columns


def test_every_scorer_has_its_section_of_the_rules_and_columns_of_its_own() -> None:
    sections = [scorer.section for scorer in SCORERS]
    # What needs the documents before one is no scorer.
    fields = set(DomainRules.__slots__) - {"mend_encoding", "paragraphs"}
    assert set(sections) == fields
    assert len(sections) == len(set(sections))
    assert len(list(_columns())) == len(set(_columns()))


def test_what_was_learned_travels_to_workers_whole(tmp_path: Path) -> None:
    section = QualityRules(
        reference=write(tmp_path / "good.jsonl", texts(_GOOD, 150, 1)),
        random=write(tmp_path / "random.jsonl", texts(_BAD, 150, 2)),
    )
    rules = DomainRules(quality=section)
    learned = learn_from([rules])
    sent = pickle.loads(pickle.dumps(learned))
    there, here = (annotate(texts(_BAD, 20, 3), [""] * 20, rules, each) for each in (sent, learned))
    assert there.numbers["quality_score"].tobytes() == here.numbers["quality_score"].tobytes()
