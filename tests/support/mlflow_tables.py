"""What MLflow's database says, read without MLflow, whose import takes seconds.

A place is a PERENNIAL_HOME with MLflow's own database in it, or the SQLite file of a server.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def alias_of(place: Path, lineage: str, alias: str = "champion") -> str | None:
    """MLflow's number of the version that an alias points at."""
    query = "select version from registered_model_aliases where name = ? and alias = ?"
    rows = _rows(place, query, lineage, alias)
    return str(rows[0][0]) if rows else None


def versions_of(place: Path, lineage: str) -> dict[str, str]:
    """Our names of all registered versions by MLflow's numbers."""
    query = """
        select v.version, t.value from model_versions v left join model_version_tags t
        on v.name = t.name and v.version = t.version and t.key = 'perennial.version'
        where v.name = ? and v.current_stage != 'Deleted_Internal' order by v.version
    """
    return {str(number): name for number, name in _rows(place, query, lineage)}


def runs_of(place: Path, lineage: str) -> list[str]:
    """States of all runs of a lineage that nobody deleted."""
    query = """
        select r.status from runs r join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and r.lifecycle_stage = 'active' order by r.start_time
    """
    return [str(row[0]) for row in _rows(place, query, lineage)]


def logged_steps_of(place: Path, lineage: str, key: str) -> list[int]:
    """Steps of one curve, over all runs of a lineage."""
    query = """
        select m.step from metrics m join runs r on m.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and m.key = ? and r.lifecycle_stage = 'active' order by m.step
    """
    return [int(row[0]) for row in _rows(place, query, lineage, key)]


def run_ids_of(place: Path, lineage: str) -> dict[str, str]:
    """MLflow's ids of the runs that nobody deleted, by their updates."""
    query = """
        select t.value, r.run_uuid from tags t join runs r on t.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and t.key = 'perennial.update' and r.lifecycle_stage = 'active'
    """
    return dict(_rows(place, query, lineage))


def points_of(place: Path, lineage: str) -> list[tuple[str, int, float]]:
    """Key, step and value of every row of every curve, in order."""
    query = """
        select m.key, m.step, m.value from metrics m join runs r on m.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and r.lifecycle_stage = 'active'
    """
    return sorted((str(key), int(step), float(v)) for key, step, v in _rows(place, query, lineage))


def repeated_points_of(place: Path, lineage: str) -> list[Any]:
    """Run, key and step of every point that is there more than once."""
    query = """
        select m.run_uuid, m.key, m.step, count(*) from metrics m
        join runs r on m.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and r.lifecycle_stage = 'active'
        group by m.run_uuid, m.key, m.step having count(*) > 1
    """
    return _rows(place, query, lineage)


def reasons_of(place: Path, lineage: str) -> list[str]:
    """Why runs of a lineage ended that did not end well."""
    query = """
        select t.value from tags t join runs r on t.run_uuid = r.run_uuid
        join experiments e on r.experiment_id = e.experiment_id
        where e.name = ? and t.key = 'perennial.ended_because' order by r.start_time
    """
    return [str(row[0]) for row in _rows(place, query, lineage)]


def _rows(place: Path, query: str, *values: str) -> list[Any]:
    file = place if place.suffix == ".db" else place / "mlflow" / "mlflow.db"
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query, values).fetchall()
