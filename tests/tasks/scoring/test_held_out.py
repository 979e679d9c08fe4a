"""Text that models are compared on: files, and a suite whose texts come back from its tokens."""

import json
from pathlib import Path

import pytest

from storage.suite import SuiteSlice
from tasks.readers import FieldNames
from tasks.scoring.held_out import GivenText, Passage, SuiteText, read_texts
from tasks.scoring.panel import JudgedSlice
from tasks.scoring.units import SliceUnits, units_of
from tasks.sources import SourceConfig
from tests.support.lineages import TEXTS
from training.tokenizer import Tokenizer
from training.tokenizer_training import train_tokenizer


def source(path: Path, **fields: str) -> SourceConfig:
    return SourceConfig(name="news", uri=str(path), domain="news", fields=FieldNames(**fields))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("tokenizer"), vocab_size=300)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [text.upper() for text in TEXTS]
    return train_tokenizer(texts, tmp_path_factory.mktemp("other"), vocab_size=300)


def test_every_document_is_a_cluster_unless_a_field_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    rows = [{"text": text, "site": f"s{n % 3}"} for n, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for fields, clusters in (({}, len(TEXTS)), ({"cluster": "site"}, 3)):
        (text,), warnings = read_texts([source(path, **fields)])
        assert len({passage.cluster for passage in text.passages}) == clusters
        assert len(text.passages) == len(TEXTS)
        assert warnings == []


def test_of_equal_documents_one_counts_and_that_is_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "c.txt"):
        (tmp_path / name).write_text("the same" if name != "c.txt" else "another")
    (text,), warnings = read_texts([source(tmp_path)])
    assert [passage.text for passage in text.passages] == ["the same", "another"]
    assert warnings == ["news: 1 documents were left out as duplicates"]


def test_a_place_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"found no text in .*expected files of text or code"):
        read_texts([source(tmp_path)])


def suite_text(tokenizer: Tokenizer, *, lost_bytes: int = 0) -> SuiteText:
    passages = tuple(Passage(document=text, cluster=text, text=text) for text in TEXTS[:5])
    rows = GivenText(domain="news", passages=passages).cut(tokenizer)
    for row in rows:
        object.__setattr__(row, "text_bytes", row.text_bytes + lost_bytes)
    judged = JudgedSlice(
        item=SuiteSlice(domain="news", snapshot="s", documents=5, clusters=5, tokens=9, files=()),
        role="old",
        label="news",
        is_guarded=True,
        units=SliceUnits(slice="news@s", content="", units=units_of(rows, "news@s")),
        depth=1,
    )
    return SuiteText(
        domain="news", judged=judged, rows=tuple(rows), seq_len=16, tokenizer=tokenizer
    )


def test_the_suite_gives_its_own_tokenizer_the_tokens_that_it_keeps(tokenizer: Tokenizer) -> None:
    text = suite_text(tokenizer)
    assert all(one is row for one, row in zip(text.cut(tokenizer), text.rows, strict=True))


def test_the_suite_gives_another_tokenizer_the_same_texts(
    tokenizer: Tokenizer, other: Tokenizer
) -> None:
    rows = suite_text(tokenizer).cut(other)
    assert [other.decode(row.tokens[1:-1]) for row in rows] == TEXTS[:5]
    assert all((row.tokens[0], row.tokens[-1]) == (other.start_id, other.end_id) for row in rows)


def test_texts_that_do_not_come_back_from_their_tokens_are_refused(
    tokenizer: Tokenizer, other: Tokenizer
) -> None:
    text = suite_text(tokenizer, lost_bytes=1)
    assert len(text.cut(tokenizer)) == 5
    with pytest.raises(ValueError, match=r"does not give texts back unchanged.*--text"):
        text.cut(other)
