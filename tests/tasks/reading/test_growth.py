import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.documents import Document, ReadPart, Reject
from tasks.ingest import list_source, new_objects, next_marks, read_objects
from tasks.reading.growth import GrowingFile, mark_of, read_mark
from tasks.sources import SourceConfig


class Nights:
    """A source that is read night by night; each gives texts by line, rejects and kinds."""

    def __init__(self, path: Path) -> None:
        self.config = SourceConfig(name="log", uri=str(path), domain="log", reject_limit=1)
        self.marks: dict[str, str] = {}

    def read(self) -> tuple[list[tuple[int, str]], list[str], list[str]]:
        parts: dict[str, ReadPart] = {}
        rejects: list[Reject] = []
        new = new_objects(list_source(self.config), self.marks)
        documents: list[Document] = list(
            read_objects(self.config, new, rejects.append, parts.__setitem__)
        )
        self.marks = next_marks(self.marks, new, rejects, parts)
        return (
            [(document.position, document.text) for document in documents],
            [reject.reason for reject in rejects],
            [found.change for found in new],
        )


def line(text: str) -> bytes:
    return b'{"text": "%s"}\n' % text.encode()


def append(path: Path, body: bytes) -> None:
    with path.open("ab") as file:
        file.write(body)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_bytes(line("one") + line("two"))
    return path


def test_of_a_file_that_has_grown_only_the_new_lines_are_read(log: Path) -> None:
    nights = Nights(log)
    assert nights.read() == ([(1, "one"), (2, "two")], [], ["new"])
    assert nights.read() == ([], [], [])
    append(log, b"\n" + line("three"))
    assert nights.read() == ([(4, "three")], [], ["grown"])
    append(log, line("four"))
    assert nights.read() == ([(5, "four")], [], ["grown"])
    assert nights.read() == ([], [], [])


def test_positions_go_on_behind_lines_that_end_with_cr(log: Path) -> None:
    log.write_bytes(line("one").replace(b"\n", b"\r") + line("two"))
    nights = Nights(log)
    assert nights.read() == ([(1, "one"), (2, "two")], [], ["new"])
    append(log, line("three").replace(b"\n", b"\r\n") + line("four"))
    assert nights.read() == ([(3, "three"), (4, "four")], [], ["grown"])


def test_a_file_that_was_altered_or_cut_is_read_from_its_start(log: Path) -> None:
    nights = Nights(log)
    nights.read()
    log.write_bytes(line("ONE") + line("two") + line("three"))
    assert nights.read() == ([(1, "ONE"), (2, "two"), (3, "three")], [], ["replaced"])
    log.write_bytes(line("ONE"))
    assert nights.read() == ([(1, "ONE")], [], ["replaced"])


def test_a_file_that_was_only_touched_gives_nothing_and_no_reject(log: Path) -> None:
    nights = Nights(log)
    nights.read()
    os.utime(log, ns=(0, 1))
    assert nights.read() == ([], [], ["grown"])
    assert nights.read() == ([], [], [])


def test_a_line_that_was_being_written_is_read_whole_the_next_time(log: Path) -> None:
    nights = Nights(log)
    append(log, line("three")[:9])
    assert nights.read() == ([(1, "one"), (2, "two")], ["malformed_json"], ["new"])
    append(log, line("three")[9:] + line("four"))
    assert nights.read() == ([(3, "three"), (4, "four")], [], ["grown"])


def test_what_is_appended_between_listing_and_reading_is_left_for_the_next_time(
    log: Path,
) -> None:
    nights = Nights(log)
    new = new_objects(list_source(nights.config), {})
    append(log, line("three"))
    parts: dict[str, ReadPart] = {}
    rejects: list[Reject] = []
    documents = list(read_objects(nights.config, new, rejects.append, parts.__setitem__))
    assert ([document.text for document in documents], rejects) == (["one", "two"], [])
    nights.marks = next_marks({}, new, rejects, parts)
    assert nights.read() == ([(3, "three")], [], ["grown"])


def test_a_file_that_is_altered_after_it_was_listed_as_grown_is_read_the_next_time(
    log: Path,
) -> None:
    nights = Nights(log)
    nights.read()
    append(log, line("three"))
    new = new_objects(list_source(nights.config), nights.marks)
    status = log.stat()
    log.write_bytes(line("ONE") + line("two") + line("three"))
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))
    rejects: list[Reject] = []
    assert list(read_objects(nights.config, new, rejects.append)) == []
    assert [reject.reason for reject in rejects] == ["changed"]
    nights.marks = next_marks(nights.marks, new, rejects)
    assert nights.read()[0] == [(1, "ONE"), (2, "two"), (3, "three")]


def test_a_packed_file_and_a_table_are_read_again_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\none\n")
    nights = Nights(path)
    assert nights.read() == ([(2, "one")], [], ["new"])
    append(path, b"two\n")
    assert nights.read() == ([(2, "one"), (3, "two")], [], ["replaced"])


def test_marks_of_earlier_versions_still_hold(log: Path) -> None:
    nights = Nights(log)
    [found] = list_source(nights.config)
    nights.marks = {found.uri: found.etag}
    assert nights.read() == ([], [], [])
    append(log, line("three"))
    assert nights.read()[2] == ["replaced"]


@given(st.integers(0, 10**12), st.integers(0, 10**9), st.text("0123456789abcdef", min_size=1))
def test_a_mark_says_what_it_was_made_of(num_bytes: int, num_lines: int, digest: str) -> None:
    part = ReadPart(num_bytes, num_lines, digest)
    assert read_mark(mark_of("12-34", part)) == ("12-34", part)
    assert read_mark(mark_of("12-34", None)) == ("12-34", None)


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r"])).map(b"".join), st.integers(1, 5))
def test_the_part_ends_with_the_last_line_end_however_the_file_is_cut(
    body: bytes, size: int
) -> None:
    growing = GrowingFile(io.BytesIO(body), len(body))
    assert b"".join(iter(lambda: growing.read(size), b"")) == body
    whole = body[: body.rfind(b"\n") + 1]
    assert growing.part.num_bytes == len(whole)
    assert growing.part.num_lines == len(whole.splitlines())
    again = GrowingFile(io.BytesIO(whole), len(whole))
    again.read(len(whole))
    assert again.part == growing.part
