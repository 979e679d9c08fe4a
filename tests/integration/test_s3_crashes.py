"""Killed writers on a real S3 server."""

from collections.abc import Callable
from itertools import count

import pytest

from storage.objects import ObjectStore, open_store
from tests.storage.crash_contract import CrashContract

pytestmark = pytest.mark.integration


@pytest.fixture
def new_store(s3_root: str) -> Callable[[], ObjectStore]:
    numbers = count()
    return lambda: open_store(f"{s3_root}/{next(numbers)}")


class TestCrashesOnS3(CrashContract):
    """Killed writers on a bucket."""
