from pathlib import Path

import pytest

from infra.stack.state import (
    PartRecord,
    StackError,
    StackFolder,
    StackState,
    read_state,
    write_state,
)

STATE = StackState(
    is_up=True,
    ports={"prefect": 4200, "mlflow": 5000, "ray-head": 6379},
    databases={"prefect": "sqlite"},
    lineages=("/lineages/a.yaml",),
    ray_workers=1,
    parts={"prefect": PartRecord(pid=7, started="8", machine="m", since="2026-01-01")},
)


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    folder = StackFolder(tmp_path)
    folder.make()
    return folder


def test_a_state_is_read_as_it_was_written(folder: StackFolder) -> None:
    write_state(folder, STATE)
    assert read_state(folder) == STATE
    assert folder.state.stat().st_mode & 0o777 == 0o600


def test_a_home_where_nothing_was_started_has_the_default_state(tmp_path: Path) -> None:
    assert read_state(StackFolder(tmp_path)) == StackState()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"parts": {}}', '{"parts": 1, "lineages": []}'])
def test_a_damaged_state_is_refused_with_what_to_do(folder: StackFolder, text: str) -> None:
    folder.state.write_text(text)
    with pytest.raises(StackError, match=r"cannot be read .*; remove it and run 'perennial up'"):
        read_state(folder)
