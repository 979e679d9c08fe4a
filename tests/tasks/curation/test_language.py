from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.config import DomainRules
from tasks.curation.language import LANGUAGES, LanguageRules, identify
from tasks.curation.language_model import language_model
from tests.tasks.curation.planted import reason_of

TEXTS = {
    "en": "The committee met on Thursday and agreed that the bridge should be repaired.",
    "de": "Der Ausschuss tagte am Donnerstag und beschloss, die Brücke zu sanieren.",
    "es": "El comité se reunió el jueves y acordó que el puente debía repararse.",
    "fr": "Le comité s'est réuni jeudi et a décidé que le pont serait réparé avant le printemps.",
    "zh": "委员会于星期四开会并决定在春天之前修好这座桥。",
    "ja": "委員会は木曜日に開かれ、春までに橋を修理することで合意しました。",
    "ru": "Комитет собрался в четверг и решил, что мост следует отремонтировать к весне.",
    "ar": "اجتمعت اللجنة يوم الخميس وقررت إصلاح الجسر قبل الربيع.",
}


def test_a_sentence_is_enough_to_tell_the_language() -> None:
    found = identify(list(TEXTS.values()))
    assert found["language"].tolist() == list(TEXTS)
    assert found["language_probability"].min() > 0.5


def test_only_allowed_languages_are_kept() -> None:
    rules = DomainRules(language=LanguageRules(allow=("de", "zh")))
    kept = {code for code, text in TEXTS.items() if not reason_of(text, rules)}
    assert kept == {"de", "zh"}
    assert reason_of(TEXTS["en"], rules) == "language:not_allowed"


def test_a_language_that_is_not_sure_enough_is_dropped() -> None:
    for probability, reason in ((0.0, ""), (1.0, "language:uncertain")):
        rules = LanguageRules(allow=tuple(sorted(LANGUAGES)), min_probability=probability)
        assert reason_of("12 x", DomainRules(language=rules)) == reason


def test_what_a_long_text_is_mostly_written_in_counts() -> None:
    text = TEXTS["en"] + "\n" + (TEXTS["de"] + "\n") * 200 + TEXTS["en"]
    assert identify([text])["language"].tolist() == ["de"]


def test_texts_without_letters_have_some_language_and_no_error() -> None:
    assert set(identify(["", " ", "123", "\U0001f600" * 50])["language"]) <= LANGUAGES


@settings(deadline=None)
@given(st.text() | st.sampled_from(sorted(TEXTS.values())).map(lambda text: text * 3))
def test_the_answers_are_those_of_the_package(text: str) -> None:
    assert language_model().classify(text) == _package().classify(text)


@cache
def _package() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def test_the_known_codes_are_those_of_the_model() -> None:
    assert frozenset(_package().labels) == LANGUAGES


def test_no_languages_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"language\.allow is empty"):
        LanguageRules(allow=())
