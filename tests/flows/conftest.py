"""One Prefect server for all flow tests, and lineages whose first version exists already."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import use_home
from tests.support.commands import Commands
from tests.support.tiny_lineage import TinyLineage


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prefect server's API, also in the environment of every command."""
    with pytest.MonkeyPatch.context() as patch:
        # Recorded first, so that what use_home adds to the environment is taken back at the end.
        for name in ("PERENNIAL_HOME", "PREFECT_HOME", "PREFECT_API_URL"):
            patch.setenv(name, "")
            patch.delenv(name)
        use_home(tmp_path_factory.mktemp("prefect-server"))
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=60):
            url = PREFECT_API_URL.value()
            assert url is not None
            patch.setenv("PREFECT_API_URL", url)
            yield url


@pytest.fixture(scope="session")
def first_version(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyLineage, Commands]:
    """A lineage whose first version has learned prose; not to be changed, see ``lineage``."""
    folder = tmp_path_factory.mktemp("first-version")
    lineage = TinyLineage(folder / "lineage")
    lineage.add("prose")
    lineage.write()
    commands = Commands(folder / "home")
    ended = commands.run("update", lineage.file, "--json")
    assert ended.code == 0, ended.err
    return lineage, commands


@pytest.fixture
def lineage(first_version: tuple[TinyLineage, Commands], tmp_path: Path) -> TinyLineage:
    """The lineage of ``first_version`` with a YAML and a ledger of this test's own."""
    # Its prose stays where it was read: a file is known by its place and time.
    lineage = TinyLineage(tmp_path / "lineage", prose=first_version[0].folder / "prose")
    lineage.write()
    return lineage


@pytest.fixture
def perennial(first_version: tuple[TinyLineage, Commands], tmp_path: Path) -> Commands:
    """Commands on a copy of the store of ``first_version``."""
    shutil.copytree(first_version[1].home, tmp_path / "home")
    return Commands(tmp_path / "home")


@pytest.fixture
def empty_home(prefect_server: str, tmp_path: Path) -> Commands:
    """Commands on a home in which nothing ever happened."""
    return Commands(tmp_path / "home")
