"""What an update does after a FAIL, by command: merges, retrainings, crashes, the next update."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from storage.ledger import read_ledger
from storage.local_objects import LocalObjects
from storage.replay import read_replay
from storage.snapshots import read_snapshot
from storage.suite import read_suite
from tasks.judge.halves import half_of
from tasks.judge.verdict import VerdictReport
from tasks.remedy.record import RemedyRecord, read_record
from tasks.scoring.units import read_units
from tasks.update_plan import load_plan
from tests.flows.test_update import LAYOUT, newest, snapshot_states, weights_of
from tests.support.commands import Commands, Ended, Prepare, fail_at, kill_at
from tests.support.mlflow_tables import alias_of, runs_of, versions_of
from tests.support.tiny_lineage import TinyLineage, source
from training.checkpoint.index import committed_steps

# Every document its own cluster, so that half of them bounds what 10 works would not.
ALONE = {"fields": {"cluster": "id"}}
# The second grammar costs the first 7 nats per token, and halfway between about 3.
TOLERANT = {
    "max_loss_nats": 4.0,
    "max_cumulative_loss_nats": 4.0,
    "max_perplexity_ratio": 1e6,
}
HALFWAY = {"order": [["interpolation"]], "weights": [0.2, 0.5]}


def sources(prose: Path | None = None) -> list[dict[str, Any]]:
    both = [source(domain) for domain in ("prose", "ledger")]
    if prose is not None:
        both[0]["uri"] = f"{prose}/*.jsonl"
    return [{**one, "fields": {**one["fields"], **ALONE["fields"]}} for one in both]


@pytest.fixture(scope="session")
def knows_prose(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyLineage, Commands]:
    """A lineage whose first version has learned prose; not to be changed."""
    folder = tmp_path_factory.mktemp("knows-prose")
    lineage = TinyLineage(folder / "lineage")
    lineage.add("prose")
    lineage.write(sources=sources())
    commands = Commands(folder / "home")
    ended = updated(commands, lineage)
    assert ended.code == 0, ended.err
    return lineage, commands


@pytest.fixture
def lineage(knows_prose: tuple[TinyLineage, Commands], tmp_path: Path) -> TinyLineage:
    """The same with a ledger to learn."""
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.add("ledger")
    return lineage


@pytest.fixture
def perennial(knows_prose: tuple[TinyLineage, Commands], tmp_path: Path) -> Commands:
    shutil.copytree(knows_prose[1].home, tmp_path / "home")
    return Commands(tmp_path / "home")


@pytest.fixture
def write(knows_prose: tuple[TinyLineage, Commands], lineage: TinyLineage) -> Any:
    """Write the YAML with some remedies."""
    prose = knows_prose[0].folder / "prose"
    return lambda remedy, **changes: lineage.write(
        **{"sources": sources(prose), "check": TOLERANT, "remedy": remedy, **changes}
    )


def updated(commands: Commands, lineage: TinyLineage, prepare: Prepare | None = None) -> Ended:
    """An update with remedies takes several trainings, on a busy machine a minute."""
    return commands.run("update", lineage.file, "--json", prepare=prepare, timeout_seconds=300)


def report_of(commands: Commands, update: str) -> VerdictReport:
    from storage.manifest import load

    store = LocalObjects(commands.home / "store")
    return load(store, f"{LAYOUT.update(update)}/verdict.json", VerdictReport)


def record_of(commands: Commands, update: str) -> RemedyRecord:
    record = read_record(LocalObjects(commands.home / "store"), LAYOUT, update)
    assert record is not None
    return record


def test_a_merge_that_keeps_both_is_published_beside_the_failure(
    lineage: TinyLineage, perennial: Commands, write: Any
) -> None:
    write(HALFWAY)
    ended = updated(perennial, lineage)
    assert (ended.code, ended.json["kind"]) == (0, "PASS"), ended.err
    store = LocalObjects(perennial.home / "store")
    head = newest(perennial)
    first, failed, merged = head.versions
    assert (failed.verdict, failed.decision) == ("FAIL", "refused")
    assert (merged.verdict, merged.decision, merged.parent) == ("PASS", "published", first.version)
    assert merged.remedy_of == failed.version
    assert merged.merged_from == (first.version, failed.version)
    assert failed.on_head == merged.on_head == merged.published_on_head == head.number
    assert ended.json["version"] == head.champion == merged.version
    assert ended.json["message"].splitlines()[1].startswith(f"remedy 1: {merged.remedy}: PASS")

    # It lies on no run's way: no trunk, no moments; what its update saw, it has seen.
    assert head.trunk is None
    assert snapshot_states(perennial) == ["learned", "learned"]
    assert head.replay is not None
    strata = {stratum.snapshot for stratum in read_replay(store, LAYOUT, head.replay).strata}
    assert strata == {record.id for record in head.snapshots}
    seen = read_ledger(store, LAYOUT, failed.update)
    train = read_snapshot(store, LAYOUT, merged.snapshots[0]).domains[0].train_documents
    assert len({row.document for row in seen}) == train
    assert not store.exists(LAYOUT.ledger(merged.update))

    (attempt,) = record_of(perennial, failed.update).attempts
    assert [point.settings for point in attempt.points] == [{"weight": 0.2}, {"weight": 0.5}]
    assert attempt.version == merged.version
    assert attempt.alpha == pytest.approx(0.05)
    for record in (failed, merged):
        assert report_of(perennial, record.update).remedies == (attempt,)
        assert store.exists(f"{LAYOUT.update(record.update)}/report.html")
    assert report_of(perennial, merged.update).remedy_of == failed.version
    assert versions_of(perennial.home, "tiny")["3"] == merged.version
    assert alias_of(perennial.home, "tiny") == "3"
    assert set(runs_of(perennial.home, "tiny")) == {"FINISHED"}
    shown = perennial.run("history", lineage.file, "--graph")
    assert merged.version in shown.out


def test_a_remedy_is_judged_on_items_that_did_not_choose_it(
    lineage: TinyLineage, perennial: Commands, write: Any, tmp_path: Path
) -> None:
    write({**HALFWAY, "order": [["interpolation"], ["half_reset"]]})
    assert updated(perennial, lineage).code == 0
    _, failed, merged = newest(perennial).versions
    whole = {row.domain: row.documents for row in report_of(perennial, failed.update).rows}
    judged = report_of(perennial, merged.update)
    # Two attempts share the level, also when the first one passes.
    assert judged.config.alpha == pytest.approx(0.025)
    store = LocalObjects(perennial.home / "store")
    for row in judged.rows:
        assert 0 < row.documents < whole[row.domain]
    suite = read_suite(store, LAYOUT, newest(perennial).suite or "")
    item = next(item for item in suite.slices if item.domain == "ledger")
    clusters = [
        cluster
        for unit in read_units(store, LAYOUT, item, tmp_path).units
        for cluster in unit.clusters
    ]
    judging = [cluster for cluster in clusters if half_of(cluster) == "judge"]
    gain = next(row for row in judged.rows if row.test == "gain")
    assert gain.documents == len(judging)


def test_the_next_update_continues_from_a_merge_as_from_an_import_and_rollback_undoes_it(
    lineage: TinyLineage, perennial: Commands, write: Any, tmp_path: Path
) -> None:
    write(HALFWAY)
    assert updated(perennial, lineage).code == 0
    shutil.copytree(perennial.home, tmp_path / "other" / "home")
    other = Commands(tmp_path / "other" / "home")
    first, failed, merged = newest(perennial).versions

    back = other.run("rollback", lineage.file, "--reason", "worse")
    assert back.code == 0, back.err
    head = newest(other)
    assert (head.champion, head.trunk) == (first.version, first.trunk)
    assert [record.decision for record in head.versions] == ["published", "refused", "rolled_back"]
    assert snapshot_states(other) == ["learned", "held"]
    # The same YAML asks for the same: what was repaired, and then rolled back, stays held.
    assert updated(other, lineage).json["kind"] == "nothing to do"
    assert snapshot_states(other) == ["learned", "held"]

    write(HALFWAY, replay={"share": 0.5})
    lineage.add("ledger", part=2)
    more = updated(perennial, lineage)
    assert more.code == 0, more.out
    latest = newest(perennial).versions[-1]
    plan = load_plan(LocalObjects(perennial.home / "store"), LAYOUT, latest.update)
    assert plan.train.initial == LAYOUT.model(merged.version)
    assert (plan.trunk, plan.champion) == (None, merged.version)
    assert latest.remedy_of is None
    assert newest(perennial).trunk == plan.train.trunk
    assert failed.version != latest.version


@pytest.mark.long
def test_a_repair_killed_again_and_again_ends_as_if_nothing_had_happened(
    lineage: TinyLineage, perennial: Commands, write: Any, tmp_path: Path
) -> None:
    """Of a candidate that has collapsed, for it has a thousand times the champion's perplexity."""
    write(
        {**HALFWAY, "order": [["layerwise"], ["interpolation"]]},
        check={"max_loss_nats": 3.9, "max_cumulative_loss_nats": 3.9},
    )
    shutil.copytree(perennial.home, tmp_path / "other" / "home")
    undisturbed = Commands(tmp_path / "other" / "home")
    assert updated(undisturbed, lineage).code in (0, 3)
    expected = newest(undisturbed)
    for target, call in (
        ("tasks.remedy.select.merge_into", 2),
        ("tasks.remedy.attempt.export_model", 1),
        ("flows.update_remedies._judged_on_half", 1),
        ("flows.update_remedies.write_record", 1),
        ("tasks.publish.commit_change", 1),
    ):
        killed = updated(perennial, lineage, prepare=kill_at(target, call))
        assert killed.code == -9, (target, killed.err)
    # All attempts are on record: none is made, or judged by another look, again.
    last = updated(
        perennial, lineage, prepare=fail_at("flows.update_remedies.attempt_merges", "again")
    )
    assert last.code in (0, 3), last.err
    head = newest(perennial)
    assert head.versions == expected.versions
    assert head.champion == expected.champion
    assert head.champion is not None
    assert weights_of(perennial, head.champion) == weights_of(undisturbed, head.champion)
    made, other = (
        record_of(commands, head.versions[1].update).attempts
        for commands in (perennial, undisturbed)
    )
    assert [attempt.points for attempt in made] == [attempt.points for attempt in other]


def test_a_gentler_training_is_an_update_of_its_own_with_its_own_trunk(
    lineage: TinyLineage, perennial: Commands, write: Any
) -> None:
    write({"order": [["more_replay"]]})
    # SIGTERM in the retraining: the failed update is what the next run goes on with.
    asked = kill_at("training.loop.lr_at", 85, signal.SIGTERM)
    stopped = updated(perennial, lineage, prepare=asked)
    assert (stopped.code, stopped.json["kind"]) == (0, "stopped"), stopped.err
    store = LocalObjects(perennial.home / "store")
    ended = updated(perennial, lineage)
    assert (ended.code, ended.json["kind"]) == (0, "PASS"), ended.err
    assert "resumes from" in ended.err
    head = newest(perennial)
    _, failed, gentler = head.versions
    assert (failed.verdict, gentler.verdict) == ("FAIL", "PASS")
    assert gentler.remedy == "more replay, share 0.5"
    assert gentler.merged_from == ()
    plan = load_plan(store, LAYOUT, gentler.update)
    assert head.trunk == plan.train.trunk
    assert plan.train.initial == load_plan(store, LAYOUT, failed.update).train.initial
    assert plan.replay_share == pytest.approx(0.5)
    assert committed_steps(store, LAYOUT.checkpoints(gentler.update))[0] == 60
    (attempt,) = record_of(perennial, failed.update).attempts
    assert attempt.trained_tokens == plan.total_tokens
    assert read_ledger(store, LAYOUT, gentler.update)
    assert alias_of(perennial.home, "tiny") == "3"


def test_when_nothing_helps_the_champion_stays_and_all_of_it_is_on_record(
    lineage: TinyLineage, perennial: Commands, write: Any
) -> None:
    strict = {"max_loss_nats": 0.0001, "max_cumulative_loss_nats": 0.0001}
    write(
        {"order": [["interpolation"], ["lower_peak"], ["more_replay"]], "max_retraining": 1.0},
        check=strict,
    )
    champion = newest(perennial).champion
    ended = updated(perennial, lineage)
    assert (ended.code, ended.json["kind"]) == (3, "FAIL"), ended.err
    head = newest(perennial)
    assert head.champion == champion
    assert [record.verdict for record in head.versions] == ["PASS", "FAIL"]
    assert snapshot_states(perennial) == ["learned", "pending"]
    merges, lower, more = report_of(perennial, head.versions[1].update).remedies
    assert (merges.verdict, merges.version) == (None, "")
    assert lower.verdict in ("FAIL", "AMBIGUOUS")
    assert lower.trained_tokens > 0
    assert "0 are left for retraining" in more.reason
    assert set(runs_of(perennial.home, "tiny")) == {"FINISHED", "FAILED"}
    again = updated(perennial, lineage)
    assert again.json["kind"] == "nothing to do"
