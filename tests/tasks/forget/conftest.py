from pathlib import Path

import pytest

from storage.local_objects import LocalObjects
from tasks.forget.passages import Passages, windows_of
from tests.tasks.forget.scene import Scene, words


@pytest.fixture(autouse=True, scope="session")
def compiled() -> None:
    """The search is compiled at its first call, which takes longer than a test may."""
    Passages(windows_of(words(1))).found_in(words(1).encode())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A lineage in a folder, with near-duplicates."""
    return Scene(LocalObjects(tmp_path / "store"), tmp_path)
