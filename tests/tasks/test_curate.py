import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.curate import AreKnown, CurateConfig, apply_rules, content_digest, curate, none_known
from tasks.curation.c4 import C4Rules
from tasks.curation.code import CodeRules
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.normalise import normalise
from tasks.curation.pii import PiiRules
from tasks.documents import Document

SHORT = CurateConfig(min_chars=2, max_chars=10)
# Mostly what normalisation is about: line ends, control characters, letters with loose accents.
TEXTS = (
    st.text(st.sampled_from("a\r\n\t\0\x0c\x1f\u0301\u00e9e\u212b\uac00\u1100\u1161")) | st.text()
)


def document(text: str) -> Document:
    return Document(
        id="1",
        cluster="1",
        text=text,
        source="web",
        uri="/data/a.jsonl",
        position=1,
        domain="web",
        licence="CC0-1.0",
        time="",
    )


def _among(digests: set[bytes]) -> AreKnown:
    # numpy takes zeros at the end for padding.
    return lambda asked: np.array([key.ljust(16, b"\0") in digests for key in asked.tolist()], bool)


def reasons(texts: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    digests = {content_digest(normalise(text)) for text in known}
    curated = curate(map(document, texts), _among(digests), SHORT)
    return [item.reason for item in curated]


@given(TEXTS)
@example("e\0\u0301")
@example("\r\0\n")
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TEXTS)
def test_a_normalised_text_is_nfc_without_control_characters(text: str) -> None:
    normal = normalise(text)
    assert unicodedata.is_normalized("NFC", normal)
    assert not [char for char in normal if char < " " and char not in "\n\t"]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_left_alone(text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\ta\0\0", "\ta"),
        ("bell\x07 and escape\x1b[0m", "bell and escape[0m"),
        ("cafe\u0301", "caf\u00e9"),
        ("e\0\u0301", "\u00e9"),
    ],
)
def test_one_spelling_of_a_text(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_a_digest_is_the_head_of_the_sha256_of_the_utf8() -> None:
    assert content_digest("caf\u00e9") == hashlib.sha256(b"caf\xc3\xa9").digest()[:16]


def test_every_document_comes_out_in_order_with_its_reason() -> None:
    texts = ["old", "new", "x", "   x   ", "new", "y" * 11, "old", "newer", "n\0ew\0"]
    assert reasons(texts, known=["old"]) == [
        "duplicate",
        "",
        "too_short",
        "too_short",
        "duplicate_in_batch",
        "too_long",
        "duplicate",
        "",
        "duplicate_in_batch",
    ]


@pytest.mark.parametrize(
    ("length", "reason"), [(2, ""), (10, ""), (1, "too_short"), (11, "too_long")]
)
def test_the_bounds_of_the_length_are_inclusive(length: int, reason: str) -> None:
    assert reasons(["z" * length]) == [reason]


def test_the_text_that_comes_out_is_normalised_and_nothing_else_changes() -> None:
    [item] = curate([document("cafe\u0301\r\n")], none_known, SHORT)
    assert item.document == document("caf\u00e9\n")
    assert item.digest == content_digest("caf\u00e9\n")


@given(st.lists(st.sampled_from(["aa", "bb", "cc", "a\0a", "long enough not to be"]), max_size=12))
def test_exactly_the_first_of_equal_documents_is_kept(texts: list[str]) -> None:
    kept = [
        text for text, reason in zip(texts, reasons(texts, known=["cc"]), strict=True) if not reason
    ]
    normal = [normalise(text) for text in texts]
    assert [normalise(text) for text in kept] == [
        text for text in dict.fromkeys(normal) if text in ("aa", "bb")
    ]


def test_bounds_that_drop_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="min_chars 5 is above max_chars 4"):
        CurateConfig(min_chars=5, max_chars=4)


# The first call loads machine code, or makes it.
@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["web", "code", "other"]), min_size=1, max_size=9), st.integers(1, 4)
)
def test_the_cut_into_batches_changes_nothing(domains: list[str], batch: int) -> None:
    config = CurateConfig(
        min_chars=1,
        domains={
            "web": DomainRules(c4=C4Rules(min_sentences=2), pii=PiiRules()),
            "*": DomainRules(code=CodeRules(syntax="python")),
        },
    )
    texts = ["One is here. Two is there.\nno", "x = (", "Mail a@corp.org today. It is on.", "x = 1"]
    documents = [
        replace(document(texts[place % 4]), domain=domain) for place, domain in enumerate(domains)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.curate._BATCH_DOCUMENTS", batch)
        cut = list(curate(documents, none_known, config))
    assert cut == list(curate(documents, none_known, config))
    alone = [apply_rules([one], config)[1][0] for one in documents]
    assert alone == ["" if item.reason.startswith("duplicate") else item.reason for item in cut]


def test_a_text_of_which_the_rules_leave_too_little_is_too_short() -> None:
    config = CurateConfig(min_chars=60, domains={"*": DomainRules(c4=C4Rules(min_sentences=1))})
    text = "A sentence is kept here.\n" + "no end mark here\n" * 9
    [item] = curate([document(text)], none_known, config)
    assert item.reason == "too_short"
    # All of a dropped document is known, not what the rules would have left of it.
    assert item.document.text == text


def test_what_the_rules_remove_is_not_in_the_digest() -> None:
    config = CurateConfig(min_chars=1, domains={"*": DomainRules(c4=C4Rules(min_sentences=1))})
    [item] = curate([document("no end mark\nA sentence is here.")], none_known, config)
    assert item.document.text == "A sentence is here."
    assert item.digest == content_digest("A sentence is here.")


def test_rules_of_a_domain_go_before_those_of_all() -> None:
    config = CurateConfig(
        min_chars=1,
        domains={"web": DomainRules(), "*": DomainRules(gopher=GopherRules())},
    )
    documents = [document("short"), replace(document("also short"), domain="code")]
    found = [item.reason for item in curate(documents, none_known, config)]
    assert [bool(reason) for reason in found] == [False, True]
