"""One night of tests/benchmarks/nights.py: the scheduled flow, and what it left behind."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from flows.ground import open_ground
from flows.outcome import Outcome
from flows.update import update_model
from storage.head import Head, read_head
from storage.manifest import load
from storage.snapshots import read_snapshot
from storage.suite import SuiteSlice, read_suite
from tasks.reporting.page import verdict_key
from tasks.scoring.compute import Desk
from tasks.scoring.scores import Record, ScoresPart, forgetting_matrix, record_of
from tasks.scoring.units import SliceUnits, stored_units
from tasks.update_plan import is_saved, load_plan
from training.score_units import score_units


class Nights:
    """A lineage under test, and the file with a line a night."""

    def __init__(self, file: Path, lines: Path) -> None:
        self.file = file
        self.lines = lines
        self.ground = open_ground(file)
        self.nights: list[dict[str, Any]] = [
            json.loads(line) for line in (lines.read_text().splitlines() if lines.exists() else ())
        ]

    @property
    def last(self) -> int:
        """The last night that was run, 0 before the first."""
        return self.nights[-1]["night"] if self.nights else 0

    def run(self, night: int, delivered: dict[str, int]) -> dict[str, Any]:
        """Run the flow once and write the night's line."""
        before = self._head()
        scored_before = self._scored()
        started = time.monotonic()
        state = update_model(lineage_file=self.file, return_state=True)
        seconds = time.monotonic() - started
        outcome: Outcome = state.result()
        head = self._head()
        assert head is not None  # the flow minted a snapshot or raised
        line: dict[str, Any] = {
            "night": night,
            "delivered_bytes": delivered,
            "kind": outcome.kind,
            "reason": outcome.message.split("\n")[0],
            "version": outcome.version,
            "champion": head.champion,
            "warnings": outcome.warnings,
            "seconds": round(seconds, 1),
            "stages": _stages(state.state_details.flow_run_id),
            "scored_tokens": self._tokens(self._scored() - scored_before),
            **self._data(night, before, head),
            **self._update(head, outcome),
        }
        line |= self._losses(head, outcome)
        self.nights.append(line)
        with self.lines.open("a") as out:
            out.write(json.dumps(line) + "\n")
        return line

    def _head(self) -> Head | None:
        return read_head(self.ground.store, self.ground.layout)

    def _scored(self) -> set[str]:
        """Keys of everything that the judge has scored so far."""
        layout = self.ground.layout
        return {info.key for info in self.ground.store.list(f"{layout.root}/scores")}

    def _tokens(self, keys: set[str]) -> int:
        """Targets of the units that lie under ``keys``."""
        units = {name for key in keys for name in self._units_in(key)}
        sizes = {
            known.id_of(index): unit.tokens
            for known in self._all_units().values()
            for index, unit in enumerate(known.units)
        }
        return sum(sizes[name] for name in units)

    def _units_in(self, key: str) -> list[str]:
        part = load(self.ground.store, key, ScoresPart)
        return [unit.unit for unit in part.units]

    def _all_units(self) -> dict[str, SliceUnits]:
        """The units of every slice that was ever scored, by its name."""
        head, store, layout = self._head(), self.ground.store, self.ground.layout
        suite = read_suite(store, layout, head.suite) if head and head.suite else None
        found = {
            item.name: stored_units(store, layout, item) for item in (suite.slices if suite else ())
        }
        return {name: units for name, units in found.items() if units is not None}

    def _data(self, night: int, before: Head | None, head: Head) -> dict[str, Any]:
        """Which snapshots wait, and since which night."""
        known = {record.id for record in before.snapshots} if before else set[str]()
        minted = {record.id: night for record in head.snapshots if record.id not in known}
        since = {key: value for line in self.nights for key, value in line["minted"].items()}
        since |= minted
        pending = [record.id for record in head.snapshots if record.state == "pending"]
        tokens = {"train": 0, "holdout": 0, "holdout_clusters": 0}
        for snapshot in minted:
            for piece in read_snapshot(self.ground.store, self.ground.layout, snapshot).domains:
                tokens["train"] += piece.train_tokens
                tokens["holdout"] += piece.holdout_tokens
                tokens["holdout_clusters"] += piece.holdout_clusters
        return {
            "minted": minted,
            "new_tokens": tokens,
            "pending": {snapshot: since[snapshot] for snapshot in pending},
            "learned": [record.id for record in head.snapshots if record.state == "learned"],
        }

    def _update(self, head: Head, outcome: Outcome) -> dict[str, Any]:
        """What was trained, and the evidence of the verdict."""
        record = next((known for known in head.versions if known.version == outcome.version), None)
        if record is None:
            return {"trained_tokens": 0, "verdict": None}
        store, layout = self.ground.store, self.ground.layout
        trained: dict[str, Any] = {"trained_tokens": 0}
        if is_saved(store, layout, record.update):
            plan = load_plan(store, layout, record.update)
            trained = {
                "trained_tokens": plan.total_tokens,
                "steps": plan.train.num_steps,
                "replay_share": plan.replay_share,
                "snapshots": len(plan.snapshots),
            }
        verdict = json.loads(store.get(verdict_key(layout, record.update)))
        return trained | {"record": asdict(record), "verdict": verdict}

    def _losses(self, head: Head, outcome: Outcome) -> dict[str, Any]:
        """The losses on record of tonight's version, and those of the first one on new text.

        The first version's are computed here and stay out of the store: the judge would take them
        for evidence.
        """
        record = next((known for known in head.versions if known.version == outcome.version), None)
        if head.suite is None or record is None:
            return {"losses": {}, "frozen_on_new": None}
        store, layout = self.ground.store, self.ground.layout
        suite = read_suite(store, layout, head.suite)
        matrix = forgetting_matrix(store, layout, head, suite)
        row = next(row for row in matrix.rows if row.version == record.version)
        losses = dict(zip(matrix.slices, row.nats_per_token, strict=True))
        published = [known.version for known in head.versions if known.published_on_head]
        new = [item for item in suite.slices if item.snapshot in record.snapshots]
        scores = [record_of(store, layout, record.version)]
        frozen = self._frozen(published[0], new, scores) if published else {}
        total = math.fsum(nats for nats, _ in frozen.values())
        tokens = sum(targets for _, targets in frozen.values())
        return {"losses": losses, "frozen_on_new": total / tokens if tokens else None}

    def finish(self) -> dict[str, Any]:
        """Losses of the first published version and of the champions on the same documents."""
        head, store, layout = self._head(), self.ground.store, self.ground.layout
        if head is None or head.suite is None:
            return {}
        published = [record for record in head.versions if record.published_on_head]
        if not published:
            return {}
        suite = read_suite(store, layout, head.suite)
        matrix = forgetting_matrix(store, layout, head, suite)
        names = {record.version for record in published}
        champions = {
            row.version: dict(zip(matrix.slices, row.nats_per_token, strict=True))
            for row in matrix.rows
            if row.version in names
        }
        records = [record_of(store, layout, record.version) for record in head.versions]
        first = published[0].version
        frozen = self._frozen(first, list(suite.slices), records)
        return {
            "champions": champions,
            "frozen": {name: nats / tokens for name, (nats, tokens) in frozen.items()},
        }

    def _frozen(
        self, version: str, items: list[SuiteSlice], records: list[Record]
    ) -> dict[str, tuple[float, int]]:
        """Nats of a version on what all ``records`` have of each slice, and targets, by slice."""
        desk = Desk(self.ground.store, self.ground.layout, self.ground.work_dir)
        known = self._all_units()
        losses: dict[str, tuple[float, int]] = {}
        for item in items:
            units = known.get(item.name)
            depths = [record.depth(units) for record in records] if units else []
            depth = min((depth for depth in depths if depth), default=0)
            if units is None or not depth:
                continue
            documents = desk.documents(item)
            chosen = units.units[:depth]
            work = [(desk.folder(item), unit.pick(documents)) for unit in chosen]
            nats = score_units(desk.model(version), work, num_threads=1)
            total = math.fsum(value for unit in nats for value in unit)
            losses[item.name] = (total, sum(unit.tokens for unit in chosen))
        return losses


def _stages(flow_run: Any) -> dict[str, float]:
    """Seconds of every step, as Prefect recorded them."""
    found: list[TaskRun] = []
    with get_client(sync_client=True) as client:
        for _ in range(20):
            found = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])), limit=200
            )
            # The server takes its steps from a stream of events, which may be behind.
            if found and all(run.state and run.state.is_final() for run in found):
                break
            time.sleep(0.25)
    stages: dict[str, float] = {}
    for run in found:
        name = run.name.rpartition("-")[0] or run.name
        seconds = run.total_run_time.total_seconds()
        stages[name] = round(stages.get(name, 0.0) + seconds, 2)
    return stages
