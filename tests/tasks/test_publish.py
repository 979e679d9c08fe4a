from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from storage.errors import AlreadyExistsError, CorruptError, HeadMovedError, LeaseLostError
from storage.head import Head, VersionRecord, commit_change
from storage.lease import Lease
from storage.local_objects import LocalObjects
from storage.models import fetch_model, is_published, read_model_manifest
from storage.objects import ObjectStore
from storage.registry import find_run, is_projected, open_run
from storage.taking_down import with_takedown
from tasks.judge.verdict import VerdictReport
from tasks.mirror import mirror
from tasks.publish import commit_verdict, export, replay_extender
from tasks.reporting.page import report_key, verdict_key
from tasks.review import rollback
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from tests.support.lineages import (
    LAYOUT,
    MODEL,
    SEQ_LEN,
    TEXTS,
    add_snapshot,
    candidate,
    newest,
    report_of,
    start_lineage,
)
from training.checkpoint.restore import load_weights
from training.checkpoint.state import TrainState, save
from training.config import Mixture, OptimizerConfig, Schedule, TrainPlan
from training.decoder.model import Decoder
from training.hub.directory import load_decoder
from training.tokenizer import upload_tokenizer
from training.tokenizer_training import train_tokenizer

VERSION = "1-aaaaaaaa"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


# Export


def trained(store: LocalObjects, work_dir: Path, *, update: str = "u1", seed: int = 5) -> TrainPlan:
    """A checkpoint of a tiny model in the store."""
    plan = TrainPlan(
        lineage="demo",
        update=update,
        checkpoint_prefix=LAYOUT.checkpoints(update),
        initial=None,
        model=MODEL,
        start_id=0,
        end_id=0,
        mixture=Mixture(streams=(), seed=0),
        schedule=Schedule(
            kind="constant",
            eta_max=1e-3,
            eta_min=1e-3,
            eta_const=1e-3,
            warmup_tokens=0,
            cooldown_tokens=0,
            decay_tokens=0,
            total_tokens=16,
        ),
        optimizer=OptimizerConfig(),
        seq_len=SEQ_LEN,
        global_batch_samples=1,
        micro_batch_size=1,
        num_steps=1,
        precision="fp32",
        seed=seed,
        checkpoint_every_steps=1,
        trunk_step=1,
    )
    model = Decoder(MODEL, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    save(store, plan, TrainState(model, optimizer, step=1), {}, work_dir / "save")
    return plan


def exported(store: LocalObjects, plan: TrainPlan, work_dir: Path) -> str:
    tokenizer = train_tokenizer(TEXTS, work_dir / "tokenizer-in", vocab_size=300).directory
    return export(
        store,
        LAYOUT,
        checkpoint_prefix=f"{plan.checkpoint_prefix}/step-1",
        version=VERSION,
        tokenizer_prefix=upload_tokenizer(store, LAYOUT, tokenizer),
        plan=plan,
        work_dir=work_dir,
    )


def test_a_checkpoint_inside_its_schedule_is_no_candidate(
    store: LocalObjects, tmp_path: Path
) -> None:
    plan = trained(store, tmp_path)
    longer = replace(plan, num_steps=4, trunk_step=4)
    with pytest.raises(
        ValueError, match=r"step 4, found step 1, inside it: .*--branch-from u1/step-1"
    ):
        exported(store, longer, tmp_path / "work")
    assert not is_published(store, LAYOUT.model(VERSION))
    # The end of a branch is the last step of the branch's own plan.
    assert exported(store, plan, tmp_path / "work") == LAYOUT.model(VERSION)


def test_an_export_holds_the_weights_of_the_checkpoint(store: LocalObjects, tmp_path: Path) -> None:
    plan = trained(store, tmp_path)
    prefix = exported(store, plan, tmp_path / "work")
    directory = fetch_model(store, prefix, tmp_path / "fetched")
    expected = load_weights(store, f"{plan.checkpoint_prefix}/step-1", tmp_path)
    found = load_decoder(directory).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MLmodel"} <= names
    assert {path.suffix for path in directory.iterdir()} <= {
        ".json",
        ".safetensors",
        ".yaml",
        ".txt",
        "",
    }


def test_exporting_again_returns_the_verified_export(store: LocalObjects, tmp_path: Path) -> None:
    plan = trained(store, tmp_path)
    prefix = exported(store, plan, tmp_path / "work")
    manifest = read_model_manifest(store, prefix)
    assert exported(store, plan, tmp_path / "elsewhere") == prefix
    assert read_model_manifest(store, prefix) == manifest
    body = bytearray(store.get(f"{prefix}/model.safetensors"))
    body[-1] ^= 1
    store.put(f"{prefix}/model.safetensors", bytes(body))
    with pytest.raises(CorruptError, match=r"model\.safetensors was altered"):
        exported(store, plan, tmp_path / "work")


def test_a_version_is_exported_from_one_checkpoint(store: LocalObjects, tmp_path: Path) -> None:
    exported(store, trained(store, tmp_path), tmp_path / "work")
    other = trained(store, tmp_path, update="u2", seed=6)
    with pytest.raises(AlreadyExistsError, match=r"was exported from .*u1.*, not from .*u2"):
        exported(store, other, tmp_path / "work")


def test_an_export_that_computes_something_else_does_not_exist(
    store: LocalObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the writer that hashes cannot see: what is read back is whole, and wrong."""
    import training.model_files

    write_model = training.model_files.write_model

    def write_wrong(directory: Path, config: object, weights: object, **ids: int) -> None:
        write_model(directory, replace(MODEL, rope_theta=500.0), weights, **ids)  # pyright: ignore[reportArgumentType]

    plan = trained(store, tmp_path)
    monkeypatch.setattr(training.model_files, "write_model", write_wrong)
    with pytest.raises(RuntimeError, match=r"they differ by up to [0-9.e-]+ on \d+ tokens"):
        exported(store, plan, tmp_path / "work")
    assert not is_published(store, LAYOUT.model(VERSION))
    monkeypatch.undo()
    assert is_published(store, exported(store, plan, tmp_path / "work"))


# The verdict


@pytest.fixture
def lease(store: LocalObjects) -> Iterator[Lease]:
    with Lease.acquire(store, LAYOUT, "test") as held:
        yield held


def commit(
    store: ObjectStore, lease: Lease, record: VersionRecord, report: VerdictReport | None = None
) -> Head:
    return commit_verdict(
        store,
        LAYOUT,
        lease,
        report or report_of(record),
        record,
        html="<p>report</p>",
        extend_replay=replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN),
        by="test",
    )


@pytest.mark.parametrize(
    ("verdict", "decision", "state"),
    [
        ("PASS", "published", "learned"),
        ("FAIL", "refused", "pending"),
        ("AMBIGUOUS", "awaiting", "pending"),
    ],
)
def test_a_verdict_is_committed_with_its_evidence(
    store: LocalObjects, lease: Lease, verdict: str, decision: str, state: str
) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), verdict)
    head = commit(store, lease, record)
    assert head == newest(store)
    assert head.lease_token == lease.token
    assert head.versions[-1].decision == decision
    assert [s.state for s in head.snapshots] == [state]
    assert head.champion == (record.version if verdict == "PASS" else None)
    assert (head.replay is not None) == (verdict == "PASS")
    assert store.get(report_key(LAYOUT, record.update)) == b"<p>report</p>"
    assert store.exists(verdict_key(LAYOUT, record.update))


def test_committing_again_changes_nothing(store: LocalObjects, lease: Lease) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "PASS")
    head = commit(store, lease, record)
    other = report_of(record, reason="told differently")
    assert commit(store, lease, record, other) == head
    assert b"told differently" not in store.get(verdict_key(LAYOUT, record.update))


def test_a_refresh_meanwhile_does_no_harm(store: LocalObjects, lease: Lease) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "PASS")
    add_snapshot(store, 2)
    head = commit(store, lease, record)
    assert head.champion == record.version
    assert [s.state for s in head.snapshots] == ["learned", "pending"]
    assert head.suite == "suite2"


def test_a_verdict_against_a_former_champion_is_refused(store: LocalObjects, lease: Lease) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "PASS")
    stale = replace(record, version="1-bbbbbbbb", update="b" * 16)
    commit(store, lease, record)
    before = newest(store)
    with pytest.raises(HeadMovedError, match=r"was compared with champion None"):
        commit(store, lease, stale)
    assert newest(store) == before


def test_a_lost_lease_commits_nothing(store: LocalObjects) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "PASS")
    lease = Lease.acquire(store, LAYOUT, "test")
    lease.release()
    with (
        Lease.acquire(store, LAYOUT, "another"),
        pytest.raises(LeaseLostError, match=r"lease"),
    ):
        commit(store, lease, record)
    assert newest(store).champion is None


def test_what_awaits_a_person_may_be_judged_again(store: LocalObjects, lease: Lease) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "AMBIGUOUS")
    commit(store, lease, record)
    add_snapshot(store, 2)
    judged = replace(record, verdict="PASS")
    head = commit(store, lease, judged, report_of(judged, reason="clear now"))
    assert head.champion == record.version
    assert len(head.versions) == 1
    assert b"clear now" in store.get(verdict_key(LAYOUT, record.update))


def test_report_and_record_must_be_of_one_verdict(store: LocalObjects, lease: Lease) -> None:
    add_snapshot(store, 1)
    record = candidate(newest(store), "PASS")
    report = report_of(record, verdict="FAIL")
    with pytest.raises(ValueError, match=r"the report says FAIL of .*, the record PASS of"):
        commit(store, lease, record, report)


def test_killed_anywhere_a_verdict_is_old_or_new_and_completes(tmp_path: Path) -> None:
    def prepared(name: str) -> tuple[LocalObjects, VersionRecord]:
        store = LocalObjects(tmp_path / name)
        add_snapshot(store, 1)
        return store, candidate(newest(store), "PASS")

    def attempt(store: ObjectStore, record: VersionRecord) -> Head:
        # Renewal of the lease runs beside it, on the store's own operations.
        lease = Lease.acquire(inner_of(store), LAYOUT, "test")
        try:
            return commit(store, lease, record)
        finally:
            lease.release()

    def inner_of(store: ObjectStore) -> ObjectStore:
        return store._inner if isinstance(store, KillingObjects) else store  # pyright: ignore[reportPrivateUsage]

    scratch, record = prepared("scratch")
    operations = count_operations(scratch, lambda store: attempt(store, record))
    for index, kill in enumerate(kill_points(operations)):
        store, record = prepared(str(index))
        old = newest(store)
        exit_info = run_killed(lambda: attempt(KillingObjects(store, **kill), record))  # noqa: B023
        assert exit_info.killed, exit_info.error
        found = newest(store)
        assert found == old or found.champion == record.version
        assert attempt(store, record).champion == record.version
        assert newest(store).number == old.number + 1


# MLflow


# MLflow says this of a class of its own while mlflow.pyfunc is being imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_mlflow_shows_the_head_and_serves_its_champion(
    store: LocalObjects, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking_uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    (tmp_path / "mlflow").mkdir()
    artifacts = (tmp_path / "mlflow" / "artifacts").as_uri()
    versions = [publish_one(store, lease, tmp_path, number) for number in (1, 2)]
    open_run(
        tracking_uri,
        lineage="demo",
        update=newest(store).versions[0].update,
        artifact_location=artifacts,
    )
    assert not is_projected(store, LAYOUT, newest(store), tracking_uri)
    mirror(store, LAYOUT, newest(store), tracking_uri, artifact_location=artifacts)
    assert is_projected(store, LAYOUT, newest(store), tracking_uri)
    mirror(store, LAYOUT, newest(store), tracking_uri, artifact_location=artifacts)

    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    client = mlflow.MlflowClient()
    assert len(client.search_model_versions("name='demo'")) == 2
    champion = client.get_model_version_by_alias("demo", "champion")
    assert champion.tags["perennial.version"] == versions[1]
    assert champion.tags["perennial.parent"] == versions[0]
    description = champion.description or ""
    assert "PASS: published, in use." in description
    assert "better on the news by 0.5 nats per token" in description
    assert "| news | new | gain |" in description
    assert "update by test" in description
    run = find_run(tracking_uri, lineage="demo", update=champion.tags["perennial.update"])
    assert run is not None
    assert champion.run_id == run.run_id
    run_page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert f"[Report]({run_page}/artifacts/report.html)" in description
    assert f"[Parent {versions[0]}](#/models/demo/versions/1)" in description
    assert f"To go back to {versions[0]}: `perennial rollback --reason ...`" in description
    assert {r.info.status for r in client.search_runs([run.experiment_id])} == {"FINISHED"}
    assert len(list((tmp_path / "mlflow").rglob("report.html"))) == 2

    predicted = mlflow.pyfunc.load_model("models:/demo@champion").predict(
        ["river 3 runs"], params={"max_new_tokens": 3, "temperature": 0.0}
    )
    assert [type(text) for text in predicted] == [str]
    weights = store.get(f"{LAYOUT.model(versions[1])}/model.safetensors")
    copies = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file()
        and path.stat().st_size == len(weights)
        and not path.is_relative_to(tmp_path / "store")
        and not path.is_relative_to(tmp_path / "save")
    ]
    assert copies == []
    assert not (tmp_path / "mlruns").exists()

    done = rollback(store, LAYOUT, by="ann", reason="worse in use")
    mirror(store, LAYOUT, done.head, tracking_uri, artifact_location=artifacts)
    champion = client.get_model_version_by_alias("demo", "champion")
    assert champion.tags["perennial.version"] == versions[0]
    rolled_back = client.get_model_version("demo", "2")
    assert rolled_back.tags["perennial.decision"] == "rolled_back"
    assert "rollback by ann: worse in use" in (rolled_back.description or "")


def publish_one(store: LocalObjects, lease: Lease, tmp_path: Path, number: int) -> str:
    start_lineage(store)
    add_snapshot(store, number)
    record = candidate(newest(store), "PASS")
    plan = trained(store, tmp_path, update=record.update, seed=number)
    tokenizer = train_tokenizer(TEXTS, tmp_path / "tokenizer-in", vocab_size=300).directory
    export(
        store,
        LAYOUT,
        checkpoint_prefix=f"{plan.checkpoint_prefix}/step-1",
        version=record.version,
        tokenizer_prefix=upload_tokenizer(store, LAYOUT, tokenizer),
        plan=plan,
        work_dir=tmp_path / "work",
    )
    commit(store, lease, record)
    return record.version


def test_a_verdict_marks_what_knows_documents_that_were_taken_down(
    store: LocalObjects, lease: Lease
) -> None:
    add_snapshot(store, 1)
    waits = candidate(newest(store), "AMBIGUOUS")
    commit(store, lease, waits)

    def taken_down(head: Head | None) -> Head:
        assert head is not None
        saw = [waits.version]
        return with_takedown(head, "t1", saw=saw, suite=head.suite, by="test", reason="")

    commit_change(store, LAYOUT, taken_down)
    head = commit(store, lease, replace(waits, verdict="PASS"))
    assert [(one.decision, one.takedowns) for one in head.versions] == [("published", ("t1",))]
