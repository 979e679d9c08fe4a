"""What MLflow's database of a home says, read without MLflow, whose import takes seconds."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def alias_of(home: Path, lineage: str, alias: str = "champion") -> str | None:
    """MLflow's number of the version that an alias points at."""
    query = "select version from registered_model_aliases where name = ? and alias = ?"
    rows = _rows(home, query, lineage, alias)
    return str(rows[0][0]) if rows else None


def versions_of(home: Path, lineage: str) -> dict[str, str]:
    """Our names of all registered versions by MLflow's numbers."""
    query = """
        select v.version, t.value from model_versions v left join model_version_tags t
        on v.name = t.name and v.version = t.version and t.key = 'perennial.version'
        where v.name = ? order by v.version
    """
    return {str(number): name for number, name in _rows(home, query, lineage)}


def runs_of(home: Path, lineage: str) -> list[str]:
    """States of all runs of a lineage."""
    query = """
        select r.status from runs r join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? order by r.start_time
    """
    return [str(row[0]) for row in _rows(home, query, lineage)]


def logged_steps_of(home: Path, lineage: str, key: str) -> list[int]:
    """Steps of one curve, over all runs of a lineage."""
    query = """
        select m.step from metrics m join runs r on m.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and m.key = ? order by m.step
    """
    return [int(row[0]) for row in _rows(home, query, lineage, key)]


def _rows(home: Path, query: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database:
        return database.execute(query, values).fetchall()
