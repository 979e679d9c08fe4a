"""Where a flow runs: settings, store and the lineage's layout, opened once."""

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

from flows.lineage import Lineage
from flows.lineage_yaml import load_lineage
from infra.log import set_up_logging
from infra.settings import Settings
from infra.versions import check_security_floors
from storage.head import Head, VersionRecord, read_head
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

    def place_of(self, key: str) -> str:
        """Where an object of the store can be opened: its file, or its URI in a bucket."""
        path = self.store.local_path(key)
        return str(path) if path else f"{self.store.uri}/{key}"


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


def find_version(ground: Ground, name: str) -> VersionRecord:
    """A version by its full name, or by its number alone.

    Raises:
        ValueError: There is none; says which there are.
    """
    head = head_of(ground)
    for record in reversed(head.versions):
        if name in (record.version, record.version.split("-")[0]):
            return record
    known = ", ".join(record.version for record in head.versions) or "none yet"
    raise ValueError(f"lineage {head.lineage} has no version {name!r}; it has {known}")


def head_of(ground: Ground) -> Head:
    """The newest state of the lineage.

    Raises:
        ValueError: There is none yet; says what to do.
    """
    head = read_head(ground.store, ground.layout)
    if head is None:
        raise ValueError(
            f"lineage {ground.lineage.name} has no state in {ground.store.uri} yet: run 'perennial "
            "update' first, or check PERENNIAL_HOME and PERENNIAL_STORAGE_ROOT"
        )
    return head


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
