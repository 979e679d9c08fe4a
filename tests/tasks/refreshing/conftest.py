"""A store and a source of 40 documents, for tests that bring none of their own."""

from pathlib import Path

import pytest

from storage.local_objects import LocalObjects
from tests.tasks.refreshing.small_refresh import write_documents


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_documents(tmp_path / "data" / "1.jsonl", range(40))
    return tmp_path / "data"
