import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import Settings


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
