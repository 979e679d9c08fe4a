"""What the servers find when they start."""

from pathlib import Path

import pytest

from infra.settings import Settings
from infra.stack.parts import prepare
from infra.stack.state import StackFolder


def test_the_database_of_users_is_private_before_its_server_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = StackFolder(tmp_path / "home")
    folder.make()
    for body in (b"", b"users"):
        # An earlier version left it readable for all.
        folder.mlflow_auth_database.write_bytes(body)
        folder.mlflow_auth_database.chmod(0o644)
        prepare(Settings(home=tmp_path / "home"))
        assert folder.mlflow_auth_database.read_bytes() == body
        assert folder.mlflow_auth_database.stat().st_mode & 0o777 == 0o600
