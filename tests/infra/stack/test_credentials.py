from pathlib import Path

import pytest

from infra.stack.credentials import make_credentials, read_credentials
from infra.stack.state import StackError, StackFolder


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    folder = StackFolder(tmp_path)
    folder.make()
    return folder


def test_passwords_are_random_kept_and_for_their_owner_only(
    folder: StackFolder, tmp_path: Path
) -> None:
    made = make_credentials(folder)
    assert make_credentials(folder) == made == read_credentials(folder)
    other = StackFolder(tmp_path / "other")
    other.make()
    assert make_credentials(other).mlflow_password != made.mlflow_password
    for path in (folder.secrets, folder.ray_token):
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_passwords_do_not_show_when_printed(folder: StackFolder) -> None:
    made = make_credentials(folder)
    assert made.ray_token not in repr(made)


def test_new_passwords_are_refused_while_users_with_the_old_one_exist(folder: StackFolder) -> None:
    make_credentials(folder)
    folder.mlflow_auth_database.touch()
    folder.secrets.unlink()
    with pytest.raises(StackError, match=r"put it back from a backup, or move .* away"):
        make_credentials(folder)


def test_a_damaged_file_is_refused_without_quoting_it(folder: StackFolder) -> None:
    folder.secrets.write_text('{"prefect_login": "canary')
    with pytest.raises(StackError, match="put it back from a backup") as caught:
        read_credentials(folder)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
