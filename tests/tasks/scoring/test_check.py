import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import CorruptError
from storage.head import Head, SnapshotRecord, SnapshotRole, SnapshotState, VersionRecord
from storage.layout import Layout
from storage.manifest import content_hash, digest_file, readable_json
from storage.models import publish_model, upload_files
from storage.objects import ObjectStore, open_store
from storage.snapshots import UNIGRAM, DomainSlice, SnapshotManifest, mint
from storage.suite import SuiteManifest, suite_of
from tasks.judge.verdict import nats_per_token
from tasks.scoring.check import CheckResult, check
from tasks.scoring.scores import (
    forgetting_matrix,
    read_record,
    record_of,
    weights_of,
    write_part,
)
from tasks.scoring.units import read_units
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

    def scores(self, version: str) -> str:
        """Prefix of what a version scored."""
        return LAYOUT.model_scores(weights_of(self.store, LAYOUT, version))

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
        by_name = sorted(item.candidate, key=lambda row: row.document)
        # Every token but the first is a target.
        assert [row.targets for row in by_name] == [6 + 7 * n for n in range(6)]
        assert [row.text_bytes for row in by_name] == [30 + n for n in range(6)]
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
    # Without its weights, the champion can only be judged from the record.
    lineage.store.delete(f"{LAYOUT.model('1-x')}/model.safetensors")
    assert lineage.check().slices == first.slices
    for info in list(lineage.store.list(lineage.scores("1-x"))):
        lineage.store.delete(info.key)
    with pytest.raises(CorruptError, match=r"models/1-x/model\.safetensors is missing"):
        lineage.check()


def test_only_missing_units_are_computed(lineage: Lineage) -> None:
    (old, _) = lineage.suite.slices
    units = read_units(lineage.store, LAYOUT, old, lineage.path / "work")
    weights = weights_of(lineage.store, LAYOUT, "2-y")
    write_part(lineage.store, LAYOUT, weights, {units.id_of(0): [1.5] * 6})
    result = lineage.check(champion=None)
    assert [score.nats for score in result.slices[0].candidate] == [1.5] * 6
    assert all(score.nats != 1.5 for score in result.slices[1].candidate)
    assert len(list(lineage.store.list(lineage.scores("2-y")))) == 2


def test_versions_with_equal_weights_share_their_scores(lineage: Lineage) -> None:
    publish(lineage.store, "3-z", lineage.path, seed=1)
    first = lineage.check()
    lineage.store.delete(f"{LAYOUT.model('3-z')}/model.safetensors")
    twin = lineage.check(candidate="2-y", champion="3-z")
    assert [item.champion for item in twin.slices] == [item.champion for item in first.slices]


def test_a_model_is_exactly_as_good_as_itself(lineage: Lineage) -> None:
    publish(lineage.store, "3-z", lineage.path, seed=1)
    for item in lineage.check(candidate="3-z").slices:
        assert item.candidate == item.champion


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
    for number, version in enumerate(("0-best", "0-bad", "0-unscored"), start=5):
        publish(lineage.store, version, lineage.path, seed=number)
    for version in ("0-best", "0-bad"):
        lineage.check(candidate=version, new_snapshots=())
    lineage.head = replace(
        lineage.head,
        versions=(
            record("0-gone"),
            record("0-best"),
            record("0-bad", decision="rolled_back"),
            record("0-unscored"),
            record("1-x"),
        ),
    )
    found = lineage.check().slices
    assert [earlier.version for earlier in found[0].earlier] == ["0-best"]
    ours, theirs = found[0].candidate, found[0].earlier[0].scores
    assert [row.document for row in ours] == [row.document for row in theirs]
    assert ours != theirs
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
    lineage.check()
    (part,) = lineage.store.list(lineage.scores("2-y"))
    stored = json.loads(lineage.store.get(part.key))
    del stored["sha256"]
    stored["units"][0]["nats"].pop()
    lineage.store.put(part.key, readable_json(stored))
    with pytest.raises(CorruptError, match=r"of 5 documents, the unit has 6: delete the scores"):
        lineage.check()
    lineage.store.put(part.key, readable_json(stored | {"weights": "0" * 64}))
    with pytest.raises(CorruptError, match=r"holds scores of the model 000000000000"):
        lineage.check()


def test_of_two_who_score_at_once_the_first_is_believed(lineage: Lineage) -> None:
    for nats in (1.5, 1.5000001):
        write_part(lineage.store, LAYOUT, "f" * 64, {"a": [nats], "b": [nats]})
    # Other units together are another part, which may hold some of them again.
    write_part(lineage.store, LAYOUT, "f" * 64, {"b": [2.5], "c": [2.5]})
    found = read_record(lineage.store, LAYOUT, "f" * 64)
    assert found.nats == {"a": (1.5,), "b": (1.5,), "c": (2.5,)}


def test_a_slice_that_was_rewritten_is_scored_anew(lineage: Lineage) -> None:
    lineage.check()
    (old, _) = lineage.suite.slices
    units = read_units(lineage.store, LAYOUT, old, lineage.path / "work")
    found = record_of(lineage.store, LAYOUT, "2-y")
    assert found.depth(units) == 1
    assert found.depth(replace(units, content="0" * 64)) == 0


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
