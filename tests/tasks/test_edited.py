"""Held-out means held out: an edited version of a held-out document is never trained on."""

import json
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.edited import HeldOut, HeldOutOfFiles, clusters_of_edited
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_request import RefreshRequest, RefreshResult, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tests.support.spooled import document, spooled

_LAYOUT = Layout("demo")
Rows = list[dict[str, str]]


def _words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.getrandbits(16)}" for _ in range(count)]


def _text(seed: int) -> str:
    return " ".join(_words(seed, 60))


def _edited(text: str, every: int) -> str:
    """One word in so many another one."""
    return " ".join(
        f"x{word}" if place % every == 0 else word for place, word in enumerate(text.split(" "))
    )


def _rows(count: int) -> Rows:
    return [
        {"id": f"d{number}", "work": f"work {number}", "text": _text(number)}
        for number in range(count)
    ]


def _write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


class _Lineage:
    """A lineage of one source, refreshed from one file."""

    def __init__(self, folder: Path, near: NearDuplicateConfig | None, **source: object) -> None:
        self.file = folder / "data" / "web.jsonl"
        self._store = LocalObjects(folder / "store")
        self._work = folder / "work"
        self._work.mkdir()
        config = SourceConfig(name="web", uri=str(self.file), domain="web")
        self._request = RefreshRequest(
            sources=(replace(config, **source),),  # pyright: ignore[reportArgumentType]
            tokenizer=TrainedTokenizer(600),
            seq_len=32,
            holdout=HoldoutConfig(min_clusters=8),
            near_duplicates=near,
        )

    def refresh(self, rows: Rows) -> dict[str, dict[str, str]]:
        """What became of each document, by its text's first words."""
        _write(self.file, rows)
        result: RefreshResult = refresh(
            self._store, _LAYOUT, self._request, by="test", work_dir=self._work
        )
        assert result.snapshot is not None, result.reason
        path = self._store.local_path(f"{_LAYOUT.snapshot(result.snapshot)}/documents.parquet")
        table = pq.read_table(path).to_pylist()
        assert len(table) == len(rows) or result.head > 1
        return {row["document"].removeprefix("web/"): row for row in table}


def _held(table: dict[str, dict[str, str]]) -> list[int]:
    """Positions of the held-out documents, from 1."""
    return sorted(int(row["position"]) for row in table.values() if row["split"] == "holdout")


_BY_ID = {"fields": FieldNames(id="id")}
_BY_WORK = {"fields": FieldNames(cluster="work")}


@pytest.mark.parametrize(("source", "every"), [(_BY_ID, 20), (_BY_ID, 1), (_BY_WORK, 1)])
def test_a_document_whose_id_or_cluster_stays_is_held_out_whatever_its_text_becomes(
    tmp_path: Path, source: dict[str, object], every: int
) -> None:
    lineage = _Lineage(tmp_path, None, **source)
    rows = _rows(80)
    held = _held(lineage.refresh(rows))
    edited = [*rows, *_rows(90)[80:]]
    for position in held:
        row = edited[position - 1]
        edited[position - 1] = {**row, "text": _edited(row["text"], every)}
    # Moved down by a line as well, which an id does not mind.
    table = lineage.refresh([{"id": "new", "work": "new", "text": _text(999)}, *edited])
    sides = {int(row["position"]): row["split"] for row in table.values()}
    assert {sides[position + 1] for position in held} == {"holdout"}


@pytest.mark.parametrize(
    "near", [None, NearDuplicateConfig(ngram=3)], ids=["alone", "with MinHash"]
)
@pytest.mark.parametrize("every", [20, 10, 7])
def test_an_edited_document_that_moves_within_its_file_stays_held_out(
    tmp_path: Path, near: NearDuplicateConfig | None, every: int
) -> None:
    lineage = _Lineage(tmp_path, near)
    rows = _rows(80)
    held = _held(lineage.refresh(rows))
    assert len(held) >= 8
    edited = [*rows[:40], *_rows(130)[80:], *rows[40:]]
    moved = [position if position <= 40 else position + 50 for position in held]
    for position in moved:
        row = edited[position - 1]
        edited[position - 1] = {"text": _edited(row["text"], every)}
    table = lineage.refresh([{"text": _text(999)}, *edited])
    rows_at = {int(row["position"]): row for row in table.values()}
    for before, after in zip(held, moved, strict=True):
        row = rows_at[after + 1]
        # MinHash finds what is near enough by itself.
        assert row["split"] == "holdout" or row["reason"] == "near_duplicate"
        if row["split"] == "holdout":
            assert row["cluster"] == f"web.jsonl#{before}"
    assert "train" in {row["split"] for row in table.values()}


def test_what_is_held_out_twice_edited_stays_held_out(tmp_path: Path) -> None:
    lineage = _Lineage(tmp_path, None)
    rows = _rows(80)
    held = _held(lineage.refresh(rows))
    for turn in range(1, 4):
        rows = [{"text": _text(1000 + turn)}, *rows]
        for position in held:
            place = position - 1 + turn
            # Each time more of it, in the end half of all words.
            words = rows[place]["text"].split(" ")
            words[10 * turn : 10 * turn + 10] = [f"y{turn}{n}" for n in range(10)]
            rows[place] = {"text": " ".join(words)}
        table = lineage.refresh(rows)
        sides = {int(row["position"]): row["split"] for row in table.values()}
        assert {sides[position + turn] for position in held} == {"holdout"}


Given = tuple[int, list[int], str]
"""Place in the file, which is the content too; tokens; why it is dropped."""


def _clusters(documents: list[Given], held: HeldOutOfFiles) -> list[str]:
    """Of the documents of a file, afterwards."""
    with TemporaryDirectory() as folder:
        spool = spooled(
            Path(folder) / "spool",
            [replace(document(f"web/a#{place}"), cluster=f"a#{place}") for place, *_ in documents],
            [tokens for _, tokens, _ in documents],
            [reason for *_, reason in documents],
        )
        edited = clusters_of_edited(spool, held)
    return [edited.get(row, f"a#{place}") for row, (place, *_) in enumerate(documents)]


def _content(place: int) -> bytes:
    return f"web/a#{place}".encode().ljust(16, b".")


def test_a_held_out_document_that_is_still_there_has_no_other_version() -> None:
    tokens = list(range(50))
    held = [HeldOut("old", _content(1), np.array(tokens))]
    present: Given = (1, [], "duplicate")
    like: Given = (2, [*tokens[:40], *range(100, 110)], "")
    assert _clusters([present, like], {"web/a": held}) == ["a#1", "a#2"]
    assert _clusters([like], {"web/a": held}) == ["old"]
    # Of another file it is another document.
    assert _clusters([like], {"web/b": held}) == ["a#2"]


def test_a_held_out_document_has_one_version_at_most_and_it_is_the_likeliest() -> None:
    tokens = list(range(50))
    documents: list[Given] = [
        (place, [*tokens[: 30 + place], 900 + place], "") for place in range(10)
    ]
    held = [HeldOut("old", b"gone" * 4, np.array(tokens))]
    settled = _clusters(documents, {"web/a": held})
    assert settled == [*(f"a#{place}" for place in range(9)), "old"]


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=6),
    st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=6),
)
def test_a_document_is_settled_only_by_what_it_is_like(
    held: list[list[int]], new: list[list[int]]
) -> None:
    def shingles(tokens: list[int]) -> set[tuple[int, ...]]:
        length = min(3, len(tokens))
        return {tuple(tokens[n : n + length]) for n in range(len(tokens) - length + 1) if length}

    def like(one: list[int], other: list[int]) -> float:
        every = shingles(one) | shingles(other)
        return len(shingles(one) & shingles(other)) / len(every) if every else 0.0

    of_file = [
        HeldOut(f"old {n}", bytes([200 + n]) * 16, np.array(tokens, np.uint16))
        for n, tokens in enumerate(held)
    ]
    documents: list[Given] = [(place, tokens, "") for place, tokens in enumerate(new)]
    settled = _clusters(documents, {"web/a": of_file})
    taken = [name for name in settled if name.startswith("old")]
    assert len(taken) == len(set(taken))
    for place, name in enumerate(settled):
        if name.startswith("old"):
            assert like(held[int(name.split()[1])], new[place]) >= 0.4
    # Nobody is left over who would have had a partner.
    free = [n for n in range(len(held)) if f"old {n}" not in taken]
    alone = [place for place, name in enumerate(settled) if not name.startswith("old")]
    assert all(like(held[n], new[place]) < 0.4 for n in free for place in alone)
