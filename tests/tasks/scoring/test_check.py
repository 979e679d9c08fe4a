import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import CorruptError, NotFoundError
from storage.head import Head, SnapshotRecord, SnapshotRole, SnapshotState, VersionRecord
from storage.layout import Layout
from storage.manifest import content_hash, digest_file, readable_json
from storage.models import publish_model, upload_files
from storage.objects import ObjectStore, open_store
from storage.snapshots import UNIGRAM, DomainSlice, SnapshotManifest, mint
from storage.suite import SuiteManifest, suite_of
from tasks.judge.verdict import DocumentScore, nats_per_token
from tasks.scoring.check import CheckResult, check
from tasks.scoring.scores import forgetting_matrix, read_scores, scores_key, write_scores
from training.config import ModelConfig
from training.data.holdout import HoldoutDocument
from training.decoder.model import Decoder
from training.hub.directory import write_model
from training.shard_writer import write_holdout_shards

LAYOUT = Layout("demo")
VOCAB, SEQ_LEN, END = 64, 16, 0
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
)
SNAPSHOTS = {"a": "a" * 12, "b": "b" * 12}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def mint_snapshot(
    store: ObjectStore, name: str, role: SnapshotRole, path: Path
) -> SnapshotManifest:
    """Six held-out documents of domain ``web``, and unigram counts that favour low tokens."""
    rng = np.random.default_rng(ord(name))
    rows = [
        HoldoutDocument(
            document=f"{name}{n}",
            cluster=f"site{n % 3}",
            tokens=np.array([END, *rng.integers(1, VOCAB, 5 + 7 * n), END], np.uint16),
            text_bytes=30 + n,
        )
        for n in range(6)
    ]
    files = write_holdout_shards(
        rows, path / "web" / "holdout", token_dtype="uint16", prefix="web/holdout"
    )
    counts = np.arange(VOCAB, 0, -1, dtype="<i8")
    (path / UNIGRAM).write_bytes(counts.tobytes())
    files = (*files, digest_file(path / UNIGRAM, UNIGRAM))
    for file in files:
        store.put_file(f"{LAYOUT.snapshot(SNAPSHOTS[name])}/{file.name}", path / file.name)
    return mint(store, LAYOUT, manifest_of(name, role, files, rows))


def manifest_of(
    name: str, role: SnapshotRole, files: Any, rows: list[HoldoutDocument]
) -> SnapshotManifest:
    held = DomainSlice(
        domain="web",
        train_samples=1,
        train_tokens=10,
        train_documents=1,
        holdout_documents=len(rows),
        holdout_clusters=3,
        holdout_tokens=sum(len(row.tokens) for row in rows),
        source_names=("s",),
        licences=("CC0-1.0",),
    )
    return SnapshotManifest(
        id=SNAPSHOTS[name],
        lineage="demo",
        identity=name * 64,
        content=content_hash(files),
        role=role,
        minted_at="2026-01-01T00:00:00+00:00",
        tokenizer="tokenizers/t",
        vocab_size=VOCAB,
        start_id=END,
        end_id=END,
        seq_len=SEQ_LEN,
        token_dtype="uint16",
        domains=(held,),
        documents_read=7,
        documents_dropped={},
        lines_rejected={},
        files=files,
    )


def publish(
    store: ObjectStore, version: str, path: Path, *, seed: int, broken: bool = False
) -> None:
    model = Decoder(MODEL)
    model.init_weights(seed)
    weights = model.state_dict()
    if broken:
        weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    directory = path / f"model-{version}"
    write_model(directory, MODEL, weights, start_id=END, end_id=END)
    prefix = LAYOUT.model(version)
    manifest = upload_files(
        store,
        prefix,
        directory,
        lineage="demo",
        version=version,
        origin=f"seed {seed}",
        code_version="0",
    )
    publish_model(store, prefix, manifest)


class Lineage:
    """Snapshot a is learned, b is new; champion 1-x, candidate 2-y."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store((path / "store").as_uri())
        suite: SuiteManifest | None = None
        for name in SNAPSHOTS:
            (path / name).mkdir()
            suite = suite_of(suite, mint_snapshot(self.store, name, "new", path / name))
        assert suite is not None
        self.suite = suite
        publish(self.store, "1-x", path, seed=1)
        publish(self.store, "2-y", path, seed=2)
        self.head = head_of(a="learned", b="pending")

    def check(
        self, candidate: str = "2-y", champion: str | None = "1-x", **changes: Any
    ) -> CheckResult:
        arguments: dict[str, Any] = {
            "suite": self.suite,
            "head": self.head,
            "new_snapshots": (SNAPSHOTS["b"],),
            "work_dir": self.path / "work",
        }
        return check(
            self.store,
            LAYOUT,
            candidate=candidate,
            champion=champion,
            **(arguments | changes),
        )


def head_of(**states: SnapshotState) -> Head:
    return Head(
        lineage="demo",
        number=3,
        action="update",
        by="test",
        reason="",
        written_at="2026-01-01T00:00:00+00:00",
        lease_token=1,
        champion="1-x",
        snapshots=tuple(
            SnapshotRecord(id=SNAPSHOTS[name], state=state) for name, state in states.items()
        ),
        versions=(record("1-x"),),
    )


def record(version: str, **changes: Any) -> VersionRecord:
    found = VersionRecord(
        version=version,
        update="0" * 16,
        verdict="PASS",
        decision="published",
        parent=None,
        trunk=None,
        snapshots=(),
        replay=None,
        on_head=1,
    )
    return replace(found, **changes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lineage, CheckResult]:
    lineage = Lineage(tmp_path_factory.mktemp("lineage"))
    return lineage, lineage.check()


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


def test_both_models_are_scored_on_the_same_documents(
    shared: tuple[Lineage, CheckResult],
) -> None:
    _, result = shared
    assert [(item.name, item.role) for item in result.slices] == [
        (f"web@{SNAPSHOTS['a']}", "old"),
        (f"web@{SNAPSHOTS['b']}", "new"),
    ]
    for item in result.slices:
        assert item.champion is not None
        assert item.unigram is None
        assert [row.document for row in item.candidate] == [row.document for row in item.champion]
        # Every token but the first is a target.
        assert [row.targets for row in item.candidate] == [6 + 7 * n for n in range(6)]
        assert [row.text_bytes for row in item.candidate] == [30 + n for n in range(6)]
        # An untrained model knows next to nothing: near log(64) nats per token.
        assert nats_per_token(item.candidate) == pytest.approx(np.log(VOCAB), abs=0.2)
        assert item.candidate != item.champion


def test_the_health_of_the_candidate_is_seen(shared: tuple[Lineage, CheckResult]) -> None:
    _, result = shared
    assert result.health.finite
    # Every document of both slices is continued, by both models.
    assert result.health.probes == 12
    assert result.health.candidate is not None
    assert result.health.champion is not None
    assert result.health.canary is not None
    assert [item.slice for item in result.health.canary.slices] == [
        item.name for item in result.slices
    ]
    assert not result.unguarded_base


def test_what_is_on_record_is_not_computed_again(lineage: Lineage) -> None:
    first = lineage.check()
    # Without its model, the champion can only be judged from the record.
    for info in list(lineage.store.list(LAYOUT.model("1-x"))):
        lineage.store.delete(info.key)
    assert lineage.check().slices == first.slices
    lineage.store.delete(scores_key(LAYOUT, "1-x", lineage.suite.slices[0]))
    with pytest.raises(NotFoundError, match="models/1-x"):
        lineage.check()


def test_only_missing_scores_are_computed(lineage: Lineage) -> None:
    (old, _) = lineage.suite.slices
    planted = (DocumentScore("a0", "site0", 1.5, 6, 30),)
    write_scores(lineage.store, LAYOUT, "2-y", old, planted)
    result = lineage.check(champion=None)
    assert result.slices[0].candidate == planted
    assert len(result.slices[1].candidate) == 6


def test_a_first_version_gets_a_unigram_model_to_beat(lineage: Lineage) -> None:
    result = lineage.check(champion=None)
    item = result.slices[1]
    assert item.champion is None
    assert item.unigram is not None
    assert [row.targets for row in item.unigram] == [row.targets for row in item.candidate]
    # Counts are 64, 63, ... 1, each plus one; the last target of every document is token 0.
    total = np.log(sum(range(1, VOCAB + 1)) + VOCAB)
    lowest = total - np.log(VOCAB + 1)
    assert all(row.nats > lowest * row.targets for row in item.unigram)
    assert all(row.nats < total * row.targets for row in item.unigram)


def test_held_and_waiting_snapshots_are_left_out(lineage: Lineage) -> None:
    lineage.head = head_of(a="held", b="pending")
    assert [item.role for item in lineage.check().slices] == ["new"]


def test_a_reference_is_old_from_the_start(lineage: Lineage) -> None:
    reference = SnapshotRecord(id=SNAPSHOTS["a"], state="pending", role="reference")
    imported = record("1-x", verdict="IMPORTED")
    lineage.head = replace(lineage.head, snapshots=(reference,), versions=(imported,))
    result = lineage.check()
    assert [item.role for item in result.slices] == ["old", "new"]
    assert not result.unguarded_base


def test_an_imported_base_without_reference_is_unguarded(lineage: Lineage) -> None:
    lineage.head = replace(lineage.head, versions=(record("1-x", verdict="IMPORTED"),))
    assert lineage.check().unguarded_base


def test_earlier_published_versions_come_from_the_record(lineage: Lineage) -> None:
    lineage.check()
    (old, _) = lineage.suite.slices
    own = read_scores(lineage.store, LAYOUT, "2-y", old) or ()
    for version in ("0-best", "0-bad"):
        write_scores(lineage.store, LAYOUT, version, old, own)
    lineage.head = replace(
        lineage.head,
        versions=(
            record("0-best"),
            record("0-bad", decision="rolled_back"),
            record("0-unscored"),
            record("1-x"),
        ),
    )
    found = lineage.check().slices
    assert [earlier.version for earlier in found[0].earlier] == ["0-best"]
    assert found[0].earlier[0].scores == own
    assert found[1].earlier == ()


def test_a_model_that_is_not_finite_is_scored_and_seen(lineage: Lineage) -> None:
    publish(lineage.store, "3-z", lineage.path, seed=3, broken=True)
    result = lineage.check(candidate="3-z")
    assert not result.health.finite
    assert all(np.isnan(row.nats) for item in result.slices for row in item.candidate)
    # NaN survives the record, although JSON has no word for it.
    again = lineage.check(candidate="3-z")
    assert all(np.isnan(row.nats) for item in again.slices for row in item.candidate)


def test_an_altered_shard_is_found(lineage: Lineage) -> None:
    key = f"{LAYOUT.snapshot(SNAPSHOTS['b'])}/web/holdout/shard.00000.mds"
    body = bytearray(lineage.store.get(key))
    body[-1] ^= 1
    lineage.store.put(key, bytes(body))
    with pytest.raises(CorruptError, match=r"shard\.00000\.mds was altered"):
        lineage.check()


def test_a_record_of_other_documents_is_found(lineage: Lineage) -> None:
    (old, _) = lineage.suite.slices
    lineage.check()
    key = scores_key(LAYOUT, "2-y", old)
    stored = json.loads(lineage.store.get(key))
    del stored["sha256"]
    lineage.store.put(key, readable_json(stored | {"targets": stored["targets"][1:]}))
    with pytest.raises(CorruptError, match=r"columns of one length .* delete it"):
        lineage.check()


def test_of_two_who_score_at_once_the_first_is_believed(lineage: Lineage) -> None:
    (old, _) = lineage.suite.slices
    first = (DocumentScore("a0", "site0", 1.5, 6, 30),)
    second = (replace(first[0], nats=1.5000001),)
    assert write_scores(lineage.store, LAYOUT, "9-q", old, first) == first
    assert write_scores(lineage.store, LAYOUT, "9-q", old, second) == first


def test_a_slice_that_was_rewritten_is_scored_anew(lineage: Lineage) -> None:
    (old, _) = lineage.suite.slices
    rewritten = replace(old, files=(replace(old.files[0], sha256="0" * 64), *old.files[1:]))
    write_scores(lineage.store, LAYOUT, "9-q", old, ())
    assert read_scores(lineage.store, LAYOUT, "9-q", old) == ()
    assert read_scores(lineage.store, LAYOUT, "9-q", rewritten) is None


def test_the_matrix_of_forgetting_shows_what_is_on_record(
    shared: tuple[Lineage, CheckResult],
) -> None:
    lineage, result = shared
    head = replace(
        lineage.head, versions=(record("0-old"), record("1-x"), record("2-y", decision="awaiting"))
    )
    matrix = forgetting_matrix(lineage.store, LAYOUT, head, lineage.suite)
    assert matrix.slices == (f"web@{SNAPSHOTS['a']}", f"web@{SNAPSHOTS['b']}")
    assert [row.version for row in matrix.rows] == ["0-old", "1-x", "2-y"]
    assert [row.is_champion for row in matrix.rows] == [False, True, False]
    assert matrix.rows[0].nats_per_token == (None, None)
    assert matrix.rows[2].nats_per_token == tuple(
        nats_per_token(item.candidate) for item in result.slices
    )


def test_importing_the_judgement_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "streaming", "mlflow", "transformers", "pyarrow")
    code = (
        "import sys, tasks.scoring.check, tasks.judge.decide, tasks.scoring.scores; "
        "import tasks.reporting.report; "
        f"sys.exit(','.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
