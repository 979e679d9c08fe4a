import gzip
import json
from pathlib import Path

from tasks.harvest import code_of_file, harvest_part, prose_of_file

SOURCE = '''"""A module docstring."""
import os


class Thing:
    """A class docstring
    over two lines.
    """

    def method(self):
        """Documented."""
        return "not a docstring"


def only_documented():
    """Nothing but words."""
'''


def read(path: Path | None) -> list[dict[str, str]]:
    assert path is not None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_code_keeps_everything_but_the_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(SOURCE + "\n".join(f"x{i} = {i}" for i in range(60)))
    (document,) = code_of_file(path)
    assert "docstring" not in document["text"].replace("not a docstring", "")
    assert 'return "not a docstring"' in document["text"]
    assert "Nothing but words" not in document["text"]


def test_prose_is_the_longer_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    words = " ".join(["a sentence about nothing."] * 30)
    path.write_text(f'"""{words}"""\n\ndef f():\n    """Short."""\n')
    (document,) = prose_of_file(path)
    assert document["text"] == words


def test_a_file_that_is_not_python_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "template.py"
    path.write_text("{{ this is a template }} def")
    assert code_of_file(path) == prose_of_file(path) == []


def test_parts_are_repeatable_and_share_no_module(tmp_path: Path) -> None:
    first = harvest_part("code", 1, tmp_path / "a", part_chars=150_000)
    second = harvest_part("code", 2, tmp_path / "a", part_chars=150_000)
    again = harvest_part("code", 2, tmp_path / "b", part_chars=150_000)
    assert second is not None
    assert again is not None
    assert second.read_bytes() == again.read_bytes()
    assert not {d["module"] for d in read(first)} & {d["module"] for d in read(second)}


def test_a_part_beyond_the_end_is_none(tmp_path: Path) -> None:
    assert harvest_part("code", 2, tmp_path, part_chars=10**9) is None
