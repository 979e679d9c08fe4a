"""What lists and pages of a snapshot tell of a document goes, and all else stays."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from storage.takedowns import ForgottenDocument
from tasks.curation.annotation_table import documents_delivered_as
from tasks.documents import Reject
from tasks.forget.pages import blanked_page
from tasks.forget.passages import Passages, windows_of
from tasks.forget.tables import (
    without_annotations,
    without_details,
    without_ledger_names,
    without_lines,
)
from tasks.rejects import RejectWriter
from tests.tasks.forget.scene import words

TEXT = words(1)
PASSAGES = Passages(windows_of(TEXT))
GONE = ForgottenDocument(
    snapshot="s1",
    row=1,
    document="web/gone",
    content="ab" * 16,
    domain="web",
    split="train",
    first_token=0,
    tokens=9,
    why="asked",
)


def test_lines_about_a_document_or_that_quote_it_go() -> None:
    rows = [
        {"document": "web/gone", "reason": "too_short", "excerpt": "short"},
        {"document": "web/gone-not", "reason": "too_short", "excerpt": "short"},
        {"document": "web/other", "reason": "near_duplicate", "excerpt": TEXT[100:300]},
        {"document": "web/another", "reason": "near_duplicate", "excerpt": words(2)},
    ]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    assert without_lines(b"".join(lines), [GONE], PASSAGES) == lines[1] + lines[3]


def test_a_reject_that_quotes_or_names_a_document_keeps_its_place_and_reason(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rejects"
    rejects = [
        Reject(uri="/a", position=1, reason="bad_utf8", detail="byte 3"),
        Reject(uri="/a", position=2, reason="malformed_json", detail=f"found {TEXT}"),
        Reject(uri="/a", position=3, reason="duplicate_id", detail="the id 'gone' is taken"),
    ]
    with RejectWriter(path) as writer:
        for reject in rejects:
            writer.add(reject)
    packed = without_details(path.read_bytes(), [GONE], PASSAGES)
    assert packed is not None
    stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed))
    found = [json.loads(line) for line in stream.read().splitlines()]
    assert [row["detail"] for row in found] == ["byte 3", "forgotten", "forgotten"]
    assert [(row["position"], row["reason"]) for row in found] == [
        (one.position, one.reason) for one in rejects
    ]
    assert without_details(packed, [GONE], PASSAGES) is None


def test_of_an_annotation_the_digest_stays_by_which_a_copy_is_found(tmp_path: Path) -> None:
    table = pa.table(
        {
            "document": ["web/kept", "web/gone"],
            "domain": ["web", "web"],
            "words": pa.array([3, 80], pa.int32()),
            "delivered": pa.array([b"k" * 16, b"g" * 16], pa.binary(16)),
        }
    )
    pq.write_table(table, tmp_path / "before")
    without_annotations(tmp_path / "before", tmp_path / "after", [GONE])
    assert pq.read_schema(tmp_path / "after") == table.schema
    kept, gone = pq.read_table(tmp_path / "after").to_pylist()
    assert kept == table.to_pylist()[0]
    assert (gone["document"], gone["words"]) == (GONE.stand_in, None)
    assert documents_delivered_as(tmp_path / "after", [b"g" * 16]) == [GONE.stand_in]


def test_a_ledger_counts_on_under_what_stands_for_the_document(tmp_path: Path) -> None:
    table = pa.table(
        {
            "snapshot": ["s1", "s1", "s2"],
            "domain": ["web"] * 3,
            "document": ["web/gone", "web/kept", "web/gone"],
            "exposures": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "before")
    named = {("s1", "web", "web/gone"): GONE.stand_in}
    assert without_ledger_names(tmp_path / "before", tmp_path / "after", named)
    found = pq.read_table(tmp_path / "after").to_pydict()
    # Another snapshot has another document of that name.
    assert found["document"] == [GONE.stand_in, "web/kept", "web/gone"]
    assert found["exposures"] == [1, 2, 3]
    assert not without_ledger_names(tmp_path / "after", tmp_path / "again", named)


def test_a_page_loses_what_it_quotes_and_nothing_else() -> None:
    page = (
        f"<h1>kept</h1><td>web/gone</td><td>web/gone too</td><td title='{TEXT}'>x</td>"
        f"<blockquote>... {TEXT[50:250]}</blockquote><p>{words(3)}</p>"
    ).encode()
    blanked = blanked_page(page, {"web/gone"}, PASSAGES)
    assert (
        blanked
        == (
            "<h1>kept</h1><td>forgotten</td><td>web/gone too</td><!-- forgotten -->x</td>"
            f"<blockquote>forgotten</blockquote><p>{words(3)}</p>"
        ).encode()
    )
    assert blanked_page(blanked, {"web/gone"}, PASSAGES) == blanked
