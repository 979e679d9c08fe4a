"""Settings of the ground: environment variables ``PERENNIAL_*`` into one frozen value.

What is here says *where* things run and never changes the weights that come out; that belongs in
the lineage's YAML. Nothing else reads our variables; Ray's and MLflow's own are also set where
they are started (``training/ray_cluster.py``, ``storage/tracking.py``).
"""

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

# Phoning home is off unless the user turns it on: no data leaves the configured servers.
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow would set its loggers up itself, over what infra.log has set.
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_PROXY_MLFLOW_TELEMETRY": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Models and tokenizers are read from the store; nothing is looked up on a hub at run time.
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Our own lines tell the story; Prefect's appear when something is wrong.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks,training,storage,infra",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_PLACES = (
    "PERENNIAL_STORAGE_ROOT",
    "PERENNIAL_MLFLOW_URI",
    "PERENNIAL_PREFECT_API_URL",
    "PERENNIAL_RAY_ADDRESS",
    "PREFECT_HOME",
    "PREFECT_API_URL",
)


class Settings(BaseSettings):
    """Where Perennial keeps its state and which servers it talks to."""

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_", frozen=True, extra="ignore")

    home: Path = Field(
        default=Path("~/.perennial"),
        description="Folder for everything Perennial writes on this machine.",
    )
    storage_root: str = Field(
        default="",
        description="Root URI of the object store, file:///path; empty: the folder store/ in home.",
    )
    mlflow_uri: str = Field(
        default="",
        description="MLflow tracking URI; empty: the SQLite file mlflow.db in home.",
    )
    prefect_api_url: str = Field(
        default="",
        description="API of a running Prefect server; empty: a temporary one for the command.",
    )
    ray_address: str = Field(
        default="",
        description="Address of a running Ray cluster; empty: a local one for the training.",
    )
    log_level: str = Field(default="INFO", description="Level of our own log lines.")

    @cached_property
    def home_path(self) -> Path:
        """``home`` as an absolute path."""
        return self.home.expanduser().resolve()

    @cached_property
    def store_uri(self) -> str:
        """URI of the object store's root."""
        return self.storage_root or (self.home_path / "store").as_uri()

    @cached_property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI."""
        return self.mlflow_uri or f"sqlite:///{self.home_path / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def artifact_uri(self) -> str:
        """Where MLflow keeps reports; weights are registered by reference, never copied."""
        return (self.home_path / "mlflow" / "artifacts").as_uri()

    @cached_property
    def work_path(self) -> Path:
        """Scratch space: what lies here can be deleted when nothing runs."""
        return self.home_path / "work"

    def export(self) -> None:
        """Set what Prefect, Ray and MLflow read from the environment; what the user set wins.

        Must run before any of them is imported.
        """
        values = dict(_QUIET)
        values["PREFECT_HOME"] = str(self.home_path / "prefect")
        if self.prefect_api_url:
            values["PREFECT_API_URL"] = self.prefect_api_url
        for name, value in values.items():
            os.environ.setdefault(name, value)
        # MLflow's SQLite file is created by MLflow, its folder is not.
        (self.home_path / "mlflow").mkdir(parents=True, exist_ok=True)


def use_home(home: Path) -> Settings:
    """Settings with another home, for this process and its children; before Prefect is imported."""
    for name in _PLACES:
        os.environ.pop(name, None)
    os.environ["PERENNIAL_HOME"] = str(home)
    settings = Settings()
    settings.export()
    return settings
