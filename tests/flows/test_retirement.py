"""Which deployments have outlived their lineage."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from flows.deployments import Served, deployments_of
from flows.lineage_yaml import load_lineage
from flows.retirement import find_obsolete
from tests.support.tiny_lineage import TinyLineage

PER_LINEAGE = 9


def serve_once(folder: Path, name: str) -> tuple[Path, set[UUID]]:
    """A lineage's YAML, and what was registered of it."""
    lineage = TinyLineage(folder)
    lineage.write(name=name)
    served = Served(lineage.file, load_lineage(lineage.file))

    async def apply() -> set[UUID]:
        made = deployments_of(served, [lineage.file])
        return {await deployment.aapply() for deployment in made}

    return lineage.file, asyncio.run(apply())


def obsolete(paths: list[Path], names: Mapping[Path, str]) -> set[UUID]:
    async def find() -> set[UUID]:
        async with get_client() as client:
            return set(await find_obsolete(client, paths, names))

    return asyncio.run(find())


def test_a_lineage_is_obsolete_when_its_yaml_is_gone_or_renames_it(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than a page of them.
    monkeypatch.setattr("flows.retirement._PAGE", 3)
    kept, _ = serve_once(tmp_path / "kept", "kept")
    gone, of_gone = serve_once(tmp_path / "gone", "gone")
    renamed, of_renamed = serve_once(tmp_path / "renamed", "before")
    broken, _ = serve_once(tmp_path / "broken", "broken")
    elsewhere, _ = serve_once(tmp_path / "elsewhere", "elsewhere")
    assert len(of_gone) == PER_LINEAGE
    gone.unlink()
    elsewhere.unlink()
    paths = [kept, gone.parent, renamed.parent, broken]
    # What cannot be read has no name, and stays as it was.
    names = {kept: "kept", renamed: "after"}
    assert obsolete(paths, names) == of_gone | of_renamed
