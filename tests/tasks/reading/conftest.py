"""The made-up bucket of the tests of storage, here too."""

from tests.storage.conftest import bucket

__all__ = ["bucket"]
