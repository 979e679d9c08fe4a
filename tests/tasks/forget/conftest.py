import pytest

from tasks.forget.passages import Passages, windows_of
from tests.tasks.forget.scene import words


@pytest.fixture(autouse=True, scope="session")
def compiled() -> None:
    """The search is compiled at its first call, which takes longer than a test may."""
    Passages(windows_of(words(1))).found_in(words(1).encode())
