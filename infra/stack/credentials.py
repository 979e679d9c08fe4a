"""Passwords of the servers: random, made once, kept in one file that only its owner may read."""

import json
import secrets
from dataclasses import asdict, dataclass

from infra.stack.state import StackError, StackFolder, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What opens the servers; the keys of ``secrets.json``."""

    prefect_login: str
    """User and password in one, as Prefect's login page and its clients want them."""
    mlflow_username: str
    mlflow_password: str
    mlflow_session_key: str
    """Signs the cookies of MLflow's pages."""
    ray_token: str

    def __repr__(self) -> str:
        return "Credentials(...)"


def read_credentials(folder: StackFolder) -> Credentials:
    """The passwords that ``perennial up`` made.

    Raises:
        StackError: There are none, or the file is damaged.
    """
    try:
        return Credentials(**json.loads(folder.secrets.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StackError(
            f"the passwords of the servers must be in {folder.secrets}, which is not there; run "
            "'perennial up'"
        ) from None
    except (ValueError, TypeError):
        # Without its cause, which may quote what is in the file.
        raise StackError(
            f"{folder.secrets} must hold the passwords that 'perennial up' made, and cannot be "
            "read; put it back from a backup"
        ) from None


def make_credentials(folder: StackFolder) -> Credentials:
    """The passwords, made when there are none yet. The caller holds the stack's lock.

    Raises:
        StackError: The file is damaged, or gone while MLflow's users are still there.
    """
    if not folder.secrets.exists():
        if folder.mlflow_auth_database.exists():
            raise StackError(
                f"the password of MLflow's first user must be in {folder.secrets}, which is gone; "
                f"put it back from a backup, or move {folder.mlflow_auth_database} away to begin "
                "with new users"
            )
        made = Credentials(
            prefect_login=f"admin:{secrets.token_urlsafe(24)}",
            mlflow_username="admin",
            mlflow_password=secrets.token_urlsafe(24),
            mlflow_session_key=secrets.token_urlsafe(32),
            ray_token=secrets.token_hex(32),
        )
        write_private(folder.secrets, json.dumps(asdict(made), indent=2) + "\n")
    folder.secrets.chmod(0o600)
    credentials = read_credentials(folder)
    write_private(folder.ray_token, credentials.ray_token)
    return credentials
