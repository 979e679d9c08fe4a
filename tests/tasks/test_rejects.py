import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Reject, printable
from tasks.rejects import RejectWriter, describe_rejects


def reject(reason: str = "malformed_json", detail: str = "why", uri: str = "/data/a") -> Reject:
    return Reject(uri=uri, position=3, reason=reason, detail=detail)


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        body = zstandard.ZstdDecompressor().stream_reader(file)
        return [json.loads(line) for line in io.TextIOWrapper(body, encoding="utf-8")]


def test_rejects_are_kept_with_file_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl.zst"
    with RejectWriter(path) as rejects:
        rejects.add(reject())
        rejects.add(reject("bad_utf8", uri="/data/caf\u00e9\n"))
        rejects.add(reject())
    assert rejects.counts == {"bad_utf8": 1, "malformed_json": 2}
    assert rows(path) == [
        {"uri": "/data/a", "position": 3, "reason": "malformed_json", "detail": "why"},
        {"uri": "/data/caf\u00e9\n", "position": 3, "reason": "bad_utf8", "detail": "why"},
        {"uri": "/data/a", "position": 3, "reason": "malformed_json", "detail": "why"},
    ]


def test_equal_rejects_give_equal_bytes(tmp_path: Path) -> None:
    for name in ["a", "b"]:
        with RejectWriter(tmp_path / name) as rejects:
            for number in range(100):
                rejects.add(reject(detail=f"line {number}"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_rejects_are_an_empty_file_that_can_be_read(tmp_path: Path) -> None:
    with RejectWriter(tmp_path / "a") as rejects:
        pass
    assert rejects.counts == {}
    assert rows(tmp_path / "a") == []


def test_what_was_rejected_before_an_error_is_kept(tmp_path: Path) -> None:
    def refuse() -> None:
        with RejectWriter(tmp_path / "a") as rejects:
            rejects.add(reject())
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        refuse()
    assert len(rows(tmp_path / "a")) == 1


def test_control_characters_cannot_reach_a_terminal() -> None:
    assert printable("a\x1b[31m\n\u202e\ud800") == "a\\x1b[31m\\n\\u202e\\ud800"


@given(st.text(st.characters()))
def test_a_detail_is_short_and_printable(detail: str) -> None:
    shown = printable(detail)
    assert len(shown) <= 200
    assert shown.isprintable()


def test_rejects_are_told_with_their_share_their_reasons_and_the_first_place() -> None:
    counts = {"bad_utf8": 1, "malformed_json": 1_200, "missing_text": 4}
    told = describe_rejects(counts, reject(uri="/data/\x1b.jsonl"), documents_read=100_000)
    assert told == (
        "1,205 of 101,205 documents rejected (1,200 malformed_json, 4 missing_text, 1 bad_utf8; "
        "first: \\x1b.jsonl:3)"
    )
