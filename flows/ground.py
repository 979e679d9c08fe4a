"""Where a flow runs: settings, store and the lineage's layout, opened once."""

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

from flows.lineage import Lineage, load_lineage
from infra.log import set_up_logging
from infra.settings import Settings
from infra.versions import check_security_floors
from storage.layout import Layout
from storage.mlflow_client import check_tracking
from storage.objects import ObjectStore, open_store
from tasks.plan import PlanRequest


@dataclass(frozen=True, slots=True)
class Ground:
    """One lineage on one ground."""

    lineage: Lineage
    settings: Settings
    store: ObjectStore
    layout: Layout

    @property
    def work_dir(self) -> Path:
        """Scratch folder of this lineage."""
        return self.settings.work_path / self.lineage.name


def open_ground(lineage_file: Path) -> Ground:
    """Read the lineage's YAML and open what it runs on.

    Raises:
        LineageError: The YAML cannot be used.
        UnsafeVersionError: A package below its security floor is installed.
        ValueError: MLflow could not show models of this store, or its URI holds a password.
    """
    settings = Settings()
    settings.export()
    set_up_logging(settings.log_level)
    check_security_floors()
    lineage = load_lineage(lineage_file)
    check_tracking(settings.tracking_uri, settings.store_uri)
    return Ground(lineage, settings, open_store(settings.store_uri), Layout(lineage.name))


def plan_request(ground: Ground) -> PlanRequest:
    """What the lineage's YAML says about its updates."""
    lineage = ground.lineage
    return PlanRequest(
        recipe=lineage.recipe,
        budget=lineage.budget,
        replay=lineage.replay,
        new_model=lineage.base.model,
    )


def whoami() -> str:
    """``user@host``, for the record of who did what."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
