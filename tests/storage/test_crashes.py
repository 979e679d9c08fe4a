from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from storage.local_objects import LocalObjects
from storage.objects import ObjectStore
from tests.storage.crash_contract import CrashContract


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], ObjectStore]:
    numbers = count()
    return lambda: LocalObjects(tmp_path / str(next(numbers)))


class TestCrashesOnLocalObjects(CrashContract):
    """Killed writers on a directory."""
