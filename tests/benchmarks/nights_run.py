"""One night of tests/benchmarks/nights.py: the scheduled flow, and what it left behind."""

import json
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
from storage.errors import NotFoundError
from storage.head import Head, read_head
from storage.snapshots import read_snapshot
from storage.suite import SuiteSlice, read_suite
from tasks.judge.verdict import nats_per_token
from tasks.plan import is_saved, load_plan
from tasks.reporting.page import verdict_key
from tasks.scoring.measure import open_model, read_documents, score
from tasks.scoring.scores import forgetting_matrix


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
        scored = self._scored()
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
            "scored_tokens": sum(scored.values()) - sum(scored_before.values()),
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

    def _scored(self) -> dict[str, int]:
        """Targets of every score on record, by key: what was computed by the judge so far."""
        store, layout = self.ground.store, self.ground.layout
        return {
            info.key: sum(json.loads(store.get(info.key)).get("targets", ()))
            for info in store.list(f"{layout.root}/scores")
        }

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
        if head.suite is None:
            return {"losses": {}, "frozen": {}}
        store, layout = self.ground.store, self.ground.layout
        suite = read_suite(store, layout, head.suite)
        matrix = forgetting_matrix(store, layout, head, suite)
        row = next((row for row in matrix.rows if row.version == outcome.version), None)
        losses = dict(zip(matrix.slices, row.nats_per_token, strict=True)) if row else {}
        published = [record.version for record in head.versions if record.published_on_head]
        if not published:
            return {"losses": losses, "frozen": {}}
        done = {key for line in self.nights for key in line["frozen"]}
        missing = [item for item in suite.slices if item.documents and item.name not in done]
        return {"losses": losses, "frozen": self._score(published[0], missing)}

    def _score(self, version: str, items: list[SuiteSlice]) -> dict[str, float | None]:
        store, layout, work_dir = self.ground.store, self.ground.layout, self.ground.work_dir
        try:
            model = open_model(store, layout, version, work_dir)
        except NotFoundError:  # the collector may have taken it
            return {}
        losses: dict[str, float | None] = {}
        for item in items:
            snapshot = read_snapshot(store, layout, item.snapshot)
            documents = read_documents(store, layout, item, snapshot, work_dir)
            losses[item.name] = nats_per_token(score(model, documents, snapshot))
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
