import pytest

from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.signatures import signatures_of


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile what the tests call, so that none of them is charged for it."""
    signatures_of(["one text"], NearDuplicateConfig().scheme)
