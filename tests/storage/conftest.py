"""A bucket that needs no server."""

import os
from collections.abc import Iterator

import pytest
from moto import mock_aws

from storage.s3_client import current_client, forget_client


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server that is made up inside this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ACCESS_KEY_ID": "AKTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        current_client().create_bucket(Bucket="bucket")
        yield "bucket"
        forget_client(current_client())
