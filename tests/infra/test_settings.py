import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import Settings, use_home
from infra.stack.credentials import make_credentials, read_credentials
from infra.stack.state import StackFolder, StackState, write_state


def test_everything_lies_under_home_by_default(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.store_uri == (tmp_path / "store").as_uri()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert settings.work_path == tmp_path / "work"


def test_the_environment_wins_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_STORAGE_ROOT", "file:///somewhere")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    settings = Settings()
    assert settings.store_uri == "file:///somewhere"
    assert settings.home_path == tmp_path


def test_telemetry_of_the_parts_is_off_unless_the_user_turned_it_on(tmp_path: Path) -> None:
    code = (
        "import os; from infra.settings import Settings; Settings().export();"
        "print(os.environ['PREFECT_SERVER_ANALYTICS_ENABLED'],"
        "os.environ['RAY_USAGE_STATS_ENABLED'],"
        "os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['PREFECT_HOME'])"
    )
    environment = {**os.environ, "PERENNIAL_HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "1"}
    environment.pop("PREFECT_HOME", None)
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split() == ["false", "1", "true", str(tmp_path / "prefect")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose servers are up, and an environment that names no other ones."""
    for name in os.environ:
        if name.startswith(("PERENNIAL_", "PREFECT_", "MLFLOW_", "RAY_", "PG")):
            monkeypatch.delenv(name)
    # What a test exports is taken back with it.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    folder = StackFolder(tmp_path)
    folder.make()
    make_credentials(folder)
    ports = {"prefect": 4201, "mlflow": 5001, "ray-head": 6380, "ray-dashboard": 8266}
    write_state(folder, StackState(is_up=True, ports=ports))
    return tmp_path


def test_commands_use_the_servers_that_are_up(home: Path) -> None:
    settings = Settings(home=home)
    settings.export()
    secrets = read_credentials(StackFolder(home))
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == secrets.prefect_login
    assert settings.ray_cluster == "127.0.0.1:6380"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text() == secrets.ray_token


def test_commands_use_no_server_that_is_down(home: Path) -> None:
    write_state(StackFolder(home), StackState(is_up=False, ports={"prefect": 4201}))
    settings = Settings(home=home)
    settings.export()
    assert settings.ray_cluster == ""
    assert "PREFECT_API_URL" not in os.environ
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_mlflow_is_spoken_to_over_http_only_when_the_store_is_elsewhere(home: Path) -> None:
    settings = Settings(home=home)
    assert settings.tracking_uri == f"sqlite:///{home}/mlflow/mlflow.db"
    assert settings.mlflow_pages == "http://127.0.0.1:5001"
    settings = Settings(home=home, storage_root="s3://bucket/prefix")
    assert settings.tracking_uri == settings.mlflow_pages == "http://127.0.0.1:5001"
    assert settings.artifact_uri == ""
    settings.export()
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "admin"
    assert len(os.environ["MLFLOW_TRACKING_PASSWORD"]) > 20


def test_what_the_user_names_wins_and_gets_none_of_our_passwords(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    settings = Settings(
        home=home,
        storage_root="s3://bucket/prefix",
        mlflow_uri="http://elsewhere",
        ray_address="elsewhere:6379",
    )
    settings.export()
    assert settings.tracking_uri == settings.mlflow_pages == "http://elsewhere"
    assert Settings(home=home, mlflow_uri="sqlite:///elsewhere.db").mlflow_pages == ""
    assert settings.ray_cluster == "elsewhere:6379"
    assert os.environ["PREFECT_API_URL"] == "http://elsewhere/api"
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN_PATH"):
        assert name not in os.environ


def test_a_password_of_the_database_is_in_no_uri(home: Path) -> None:
    settings = Settings(home=home, mlflow_database_url=SecretStr("postgresql://me:canary@host/db"))
    assert settings.tracking_uri == "postgresql+psycopg2://me@host/db"
    assert "canary" not in repr(settings)
    settings.export()
    assert os.environ["PGPASSWORD"] == "canary"


def test_another_home_does_not_see_the_servers_of_this_one(home: Path, tmp_path: Path) -> None:
    Settings(home=home).export()
    other = use_home(tmp_path / "other")
    assert other.stack is None
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "RAY_AUTH_TOKEN_PATH"):
        assert name not in os.environ


def test_a_home_that_is_made_is_for_its_owner_only_and_one_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o750)
    for name, mode in (("made", 0o700), ("there", 0o750)):
        Settings(home=tmp_path / name).export()
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "file:///h/mlflow/artifacts"),
        ({"storage_root": "s3://b/p/"}, "s3://b/p/mlflow"),
        ({"storage_root": "s3://b/p", "mlflow_uri": "http://m:5000"}, ""),
        ({"mlflow_uri": "http://m:5000", "mlflow_artifacts_uri": "s3://b/m"}, "s3://b/m"),
    ],
)
def test_where_artifacts_lie_that_go_through_a_server_is_known_of_our_own_and_else_told(
    values: dict[str, str], expected: str
) -> None:
    assert Settings(home=Path("/h"), **values).sent_artifacts == expected  # pyright: ignore[reportArgumentType]
