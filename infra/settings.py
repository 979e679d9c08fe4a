"""Settings of the ground: environment variables ``PERENNIAL_*`` into one frozen value.

What is here says *where* things run and never changes the weights that come out; that belongs in
the lineage's YAML. Nothing else reads our variables; Ray's and MLflow's own are also set where
they are started (``training/cluster/connection.py``, ``storage/mlflow_client.py``).
"""

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.stack.credentials import read_credentials
from infra.stack.databases import password_of, with_driver, without_password
from infra.stack.state import StackFolder, StackState, read_state

# Phoning home is off unless the user turns it on: no data leaves the configured servers.
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow would set its loggers up itself, over what infra.log has set.
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_PROXY_MLFLOW_TELEMETRY": "false",
    # A bar for each artifact, of which a takedown fetches all.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Models and tokenizers are read from the store; nothing is looked up on a hub at run time.
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Our own lines tell the story; Prefect's appear when something is wrong.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks,training,storage,infra",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A server that is away for less than eight minutes is waited for: 2 + 4 + ... + 256 seconds.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # On a busy machine Prefect's temporary server takes longer than the 20 s that Prefect allows.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_PLACES = (
    "PERENNIAL_STORAGE_ROOT",
    "PERENNIAL_MLFLOW_URI",
    "PERENNIAL_PREFECT_API_URL",
    "PERENNIAL_RAY_ADDRESS",
    "PERENNIAL_PREFECT_DATABASE_URL",
    "PERENNIAL_MLFLOW_DATABASE_URL",
    "PREFECT_HOME",
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
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
        description=(
            "Root URI of the object store, file:///path or s3://bucket/prefix; empty: the folder "
            "store/ in home."
        ),
    )
    mlflow_uri: str = Field(
        default="",
        description=(
            "MLflow tracking URI; empty: the database of mlflow_database_url, or the server of "
            "'perennial up' when the object store is not on this machine."
        ),
    )
    mlflow_database_url: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "postgresql://user:password@host:port/database for MLflow's tables; empty: the SQLite "
            "file mlflow/mlflow.db in home."
        ),
    )
    mlflow_artifacts_uri: str = Field(
        default="",
        description=(
            "s3://bucket/prefix below which an MLflow server of yours keeps artifacts, so that "
            "'perennial forget' reaches their old versions; empty: that of 'perennial up'."
        ),
    )
    prefect_api_url: str = Field(
        default="",
        description=(
            "API of a running Prefect server; empty: that of 'perennial up', or a temporary one "
            "for the command."
        ),
    )
    prefect_database_url: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "postgresql://user:password@host:port/database for the Prefect server of "
            "'perennial up'; empty: the SQLite file prefect/prefect.db in home."
        ),
    )
    ray_address: str = Field(
        default="",
        description=(
            "Address of a running Ray cluster; empty: that of 'perennial up', or a local one for "
            "the training."
        ),
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
    def stack(self) -> StackState | None:
        """The servers that ``perennial up`` started; None when they are down."""
        state = read_state(StackFolder(self.home_path))
        return state if state.is_up and "prefect" in state.ports else None

    @cached_property
    def is_local_store(self) -> bool:
        """Whether the object store is a folder of this machine."""
        return self.store_uri.startswith("file:")

    @cached_property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI; holds no password.

        With a store on this machine, commands speak to MLflow's database beside the server that
        shows it: over HTTP, MLflow refuses versions that refer to files of the machine.
        """
        if self.mlflow_uri:
            return self.mlflow_uri
        if self.stack is not None and not self.is_local_store:
            return self.stack.mlflow_url
        return self.mlflow_database_uri

    @cached_property
    def stack_artifacts(self) -> str:
        """URI below which the MLflow server of ``perennial up`` keeps what clients send it."""
        if self.is_local_store:
            return (self.home_path / "mlflow" / "artifacts").as_uri()
        return f"{self.store_uri.rstrip('/')}/mlflow"

    @cached_property
    def sent_artifacts(self) -> str:
        """The same of the server that ``tracking_uri`` is, if it is one; empty: not known."""
        return self.mlflow_artifacts_uri or ("" if self.mlflow_uri else self.stack_artifacts)

    @cached_property
    def mlflow_pages(self) -> str:
        """URL of the MLflow server whose pages show the tracking URI; empty when there is none."""
        if self.tracking_uri.startswith("http"):
            return self.tracking_uri
        return "" if self.mlflow_uri or self.stack is None else self.stack.mlflow_url

    @cached_property
    def mlflow_database_uri(self) -> str:
        """Where MLflow's tables are, for SQLAlchemy; holds no password, see ``export``."""
        if url := self.mlflow_database_url.get_secret_value():
            return with_driver(without_password(url), "psycopg2")
        return f"sqlite:///{self.home_path / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def ray_cluster(self) -> str:
        """Address of the Ray cluster to train on; empty for one of the training's own."""
        return self.ray_address or (self.stack.ray_address if self.stack else "")

    @cached_property
    def artifact_uri(self) -> str:
        """Where MLflow keeps reports; weights are registered by reference, never copied.

        Empty where an MLflow server is to choose: clients need not reach the place then.
        """
        if self.tracking_uri.startswith(("http://", "https://")):
            return ""
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
        if password := password_of(self.mlflow_database_url.get_secret_value()):
            # Read by PostgreSQL's own client library, so that no tracking URI has to carry it.
            values["PGPASSWORD"] = password
        if self.stack is not None:
            values |= self._stack_variables(self.stack)
        for name, value in values.items():
            os.environ.setdefault(name, value)
        self.make_home()
        # MLflow's SQLite file is created by MLflow, its folder is not.
        (self.home_path / "mlflow").mkdir(parents=True, exist_ok=True)

    def make_home(self) -> None:
        """Create home, for its owner only; one that is there stays as it is."""
        self.home_path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _stack_variables(self, stack: StackState) -> dict[str, str]:
        """What opens the servers of ``perennial up``, except where others are named."""
        folder = StackFolder(self.home_path)
        credentials = read_credentials(folder)
        values: dict[str, str] = {}
        if not self.prefect_api_url and "PREFECT_API_URL" not in os.environ:
            values["PREFECT_API_URL"] = stack.prefect_api_url
            values["PREFECT_API_AUTH_STRING"] = credentials.prefect_login
        if self.tracking_uri == stack.mlflow_url:
            values["MLFLOW_TRACKING_USERNAME"] = credentials.mlflow_username
            values["MLFLOW_TRACKING_PASSWORD"] = credentials.mlflow_password
        if not self.ray_address:
            values["RAY_AUTH_MODE"] = "token"
            values["RAY_AUTH_TOKEN_PATH"] = str(folder.ray_token)
        return values


def use_home(home: Path) -> Settings:
    """Settings with another home, for this process and its children; before Prefect is imported."""
    for name in _PLACES:
        os.environ.pop(name, None)
    os.environ["PERENNIAL_HOME"] = str(home)
    settings = Settings()
    settings.export()
    return settings
