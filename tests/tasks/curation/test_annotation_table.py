from dataclasses import replace
from pathlib import Path

import pytest

from tasks.curate import CurateConfig, apply_rules, content_digest
from tasks.curation.annotate import judge
from tasks.curation.annotation_table import (
    AnnotationWriter,
    documents_delivered_as,
    read_annotations,
)
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.language import LanguageRules
from tasks.curation.pii import PiiRules
from tasks.documents import Document
from tests.tasks.curation.planted import prose

RULES = {
    "web": DomainRules(gopher=GopherRules(), language=LanguageRules(allow=("en",))),
    "mail": DomainRules(pii=PiiRules(drop=("key",))),
}
CONFIG = CurateConfig(min_chars=1, domains=RULES)
DOCUMENT = Document(
    id="", cluster="", text="", source="s", uri="", position=0, domain="", licence="", time=""
)
DOCUMENTS = [
    replace(DOCUMENT, id=f"{number}", domain=domain, text=text)
    for number, (domain, text) in enumerate(
        [
            ("web", prose(200)),
            ("mail", "to jane@corp.org"),
            ("other", "anything"),
            ("web", "too short"),
            ("mail", "AKIAIOSFODNN7EXAMPLZ"),
        ]
    )
]


def write(path: Path, batches: list[list[Document]]) -> list[str]:
    reasons: list[str] = []
    with AnnotationWriter(path, CONFIG.annotation_columns) as writer:
        for batch in batches:
            ruled, of_batch, found = apply_rules(batch, CONFIG)
            writer.add(ruled, found)
            reasons += of_batch
    return reasons


def test_a_stored_table_is_judged_as_the_texts_were(tmp_path: Path) -> None:
    reasons = write(tmp_path / "a", [DOCUMENTS])
    domains, numbers = read_annotations(tmp_path / "a")
    assert domains == [document.domain for document in DOCUMENTS]
    assert judge(numbers, domains, RULES) == reasons
    assert reasons[4] == "pii:key"
    assert judge(numbers, domains, {"mail": DomainRules(pii=PiiRules())}) == [""] * 5


def test_the_cut_into_batches_changes_no_row(tmp_path: Path) -> None:
    write(tmp_path / "a", [DOCUMENTS])
    write(tmp_path / "b", [DOCUMENTS[:2], DOCUMENTS[2:3], DOCUMENTS[3:]])
    (domains, whole), (same_domains, cut) = (read_annotations(tmp_path / name) for name in "ab")
    assert domains == same_domains
    assert {name: column.tolist() for name, column in whole.items()} == {
        name: column.tolist() for name, column in cut.items()
    }


def test_equal_batches_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, [DOCUMENTS])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("place", range(5))
def test_a_document_is_found_by_its_text_as_it_was_delivered(tmp_path: Path, place: int) -> None:
    write(tmp_path / "a", [DOCUMENTS])
    contents = [content_digest(DOCUMENTS[place].text)]
    assert documents_delivered_as(tmp_path / "a", contents) == [str(place)]


def test_without_rules_nothing_is_written(tmp_path: Path) -> None:
    with AnnotationWriter(tmp_path / "a", CurateConfig().annotation_columns) as writer:
        writer.add(DOCUMENTS, [])
    assert not (tmp_path / "a").exists()
