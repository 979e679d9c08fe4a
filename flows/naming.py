"""What a flow run is called, so that Prefect's lists say which lineage it works on."""

from pathlib import Path

import yaml
from prefect.runtime import flow_run


def run_name() -> str:
    """``news-en 2026-11-20 02:00``: the lineage, and the time that the run was meant to start.

    The same in every attempt of a run. Called by Prefect inside the run, before its parameters are
    validated.
    """
    lineage = _lineage_name(Path(str(flow_run.parameters.get("lineage_file", ""))))
    start = flow_run.scheduled_start_time
    return f"{lineage} {start:%Y-%m-%d %H:%M}"


def question_name() -> str:
    """``news-en version 12``: what a run that asks a person is about."""
    lineage = _lineage_name(Path(str(flow_run.parameters.get("lineage_file", ""))))
    return f"{lineage} version {flow_run.parameters.get('version', '')}"


def _lineage_name(file: Path) -> str:
    """The name in the YAML; the file's where that cannot be read, which the run will tell."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raw = None
    name = raw.get("name") if isinstance(raw, dict) else None
    return name if isinstance(name, str) else file.stem
