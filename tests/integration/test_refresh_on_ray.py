"""A refresh on Ray: the snapshot of one process, whatever the workers and their deaths."""

import json
import os
import pickle
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.objects import open_store
from storage.snapshots import SnapshotManifest, read_snapshot
from tasks.curate import CurateConfig
from tasks.curation.config import DomainRules
from tasks.curation.perplexity import PerplexityRules
from tasks.curation.pii import PiiRules
from tasks.documents import SourceRefusedError
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.readers import FieldNames
from tasks.refresh import refresh
from tasks.refresh_progress import ReadingProgress, UnseenProgress
from tasks.refresh_request import ImportedTokenizer, RefreshRequest, TrainedTokenizer
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tasks.staff import Workers
from tests.integration.servers.nodes import NodeCluster
from tests.support.lineages import hub_directory, import_champion
from tests.support.web import html
from training.cluster.pool import Pool
from training.errors import TrainingError
from training.tokenizer_training import train_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")]

DRIVER = """
import logging, pickle, sys
from pathlib import Path
import tasks.source_reading, tasks.staff
from storage.layout import Layout
from storage.objects import open_store
from tasks.refresh import refresh
from tasks.refresh_progress import UnseenProgress

logging.basicConfig(level=logging.INFO)
tasks.staff.LITTLE_BYTES = 0
tasks.source_reading._BATCH_ITEMS = 20

class Told(UnseenProgress):
    def reading(self, state):
        print("read", state.documents, flush=True)

request, uri, workers = pickle.loads(Path(sys.argv[1]).read_bytes())
work_dir = Path("/tmp/home/refresh")
work_dir.mkdir(parents=True)
result = refresh(open_store(uri), Layout("demo"), request, by="test", work_dir=work_dir,
                 progress=Told(), workers=workers)
print("snapshot", result.snapshot)
"""
PATIENCE_SECONDS = 300
"""Ends a test that hangs; no outcome depends on it."""

_LAYOUT = Layout("demo")
_POOL = Pool(what="refreshing", num_workers=2, address=None, max_failures=2, wait_seconds=60)


def _write_sources(folder: Path) -> tuple[SourceConfig, ...]:
    """Texts, copies and near-copies of some, lines that are none, and pages."""
    rng = random.Random(1)
    words = [f"{rng.randrange(10**6):x}" for _ in range(3000)]
    texts = [" ".join(rng.choices(words, k=120)) for _ in range(600)]
    texts += [texts[n] for n in range(0, 600, 9)]
    texts += [texts[n] + f" write to me{n}@example.org" for n in range(0, 600, 7)]
    rng.shuffle(texts)
    lines = [json.dumps({"text": text, "id": f"d{n}"}) for n, text in enumerate(texts)]
    lines[100:100] = ["{broken"] * 5
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(lines[:500]))
    (folder / "b.jsonl").write_text("\n".join(lines[500:]))
    pages = folder / "pages"
    pages.mkdir()
    for n in range(60):
        empty = "<html><body></body></html>"
        (pages / f"{n:02}.html").write_text(html(f"topic {n % 40}") if n % 6 else empty)
    return (
        SourceConfig(
            name="log",
            uri=str(folder / "*.jsonl"),
            domain="log",
            licence="CC0-1.0",
            fields=FieldNames(id="id"),
        ),
        SourceConfig(name="web", uri=str(pages), domain="web", licence="CC0-1.0"),
    )


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> RefreshRequest:
    folder = tmp_path_factory.mktemp("given")
    train_tokenizer(["one two 123 abc"] * 3, folder / "tokenizer", vocab_size=300)
    return RefreshRequest(
        sources=_write_sources(folder / "sources"),
        tokenizer=ImportedTokenizer(folder / "tokenizer"),
        seq_len=32,
        curate=CurateConfig(domains={"*": DomainRules(pii=PiiRules())}),
        near_duplicates=NearDuplicateConfig(),
        holdout=HoldoutConfig(min_clusters=3),
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.staff.LITTLE_BYTES", 0)
    monkeypatch.setattr("tasks.staff.LITTLE_SCORED_BYTES", 0)
    monkeypatch.setattr("tasks.source_reading._BATCH_ITEMS", 20)


def _snapshot(
    request_: RefreshRequest,
    home: Path,
    pool: Pool | None,
    progress: UnseenProgress | None = None,
    champion: Path | None = None,
) -> SnapshotManifest:
    store = LocalObjects(home / "store")
    (home / "work").mkdir(parents=True)
    if champion is not None:
        import_champion(store, champion, home / "work")
    result = refresh(
        store,
        _LAYOUT,
        request_,
        by="test",
        work_dir=home / "work",
        progress=progress or UnseenProgress(),
        workers=Workers(pool),
    )
    assert result.snapshot is not None, result.reason
    return replace(read_snapshot(store, _LAYOUT, result.snapshot), minted_at="")


@pytest.fixture(scope="module")
def alone(request_: RefreshRequest, tmp_path_factory: pytest.TempPathFactory) -> SnapshotManifest:
    """What one process makes of the sources, in batches of another cut than the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.source_reading._BATCH_ITEMS", 20)
        return _snapshot(request_, tmp_path_factory.mktemp("alone"), None)


def test_a_refresh_of_this_kind_drops_for_every_reason(alone: SnapshotManifest) -> None:
    assert {"duplicate_in_batch", "near_duplicate_in_batch"} <= set(alone.documents_dropped)
    assert alone.lines_rejected == {"malformed_json": 5, "no_main_text": 10}


@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_workers_gives_the_snapshot_of_one_process(
    num_workers: int, request_: RefreshRequest, alone: SnapshotManifest, tmp_path: Path
) -> None:
    assert _snapshot(request_, tmp_path / "s", replace(_POOL, num_workers=num_workers)) == alone


def _prepares(process: psutil.Process) -> bool:
    try:
        # The kernel keeps 15 characters of a name.
        return process.status() != psutil.STATUS_ZOMBIE and "PoolWorker" in process.name()
    except psutil.NoSuchProcess:
        return False


class _Killer(UnseenProgress):
    """Kills a worker after the third batch, and another after the tenth."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self._batches = 0

    def reading(self, state: ReadingProgress) -> None:
        self._batches += bool(state.documents)
        workers = list(filter(_prepares, psutil.Process().children(recursive=True)))
        if self._batches in (3, 10) and workers:
            self.killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)


def test_a_worker_that_is_killed_costs_its_part_only(
    request_: RefreshRequest, alone: SnapshotManifest, tmp_path: Path
) -> None:
    killer = _Killer()
    assert _snapshot(request_, tmp_path / "s", _POOL, killer) == alone
    assert len(killer.killed) == 2
    with pytest.raises(TrainingError, match="refreshing must end with at most 0 losses"):
        _snapshot(request_, tmp_path / "t", replace(_POOL, max_failures=0), _Killer())
    assert not list((tmp_path / "t" / "store").rglob("manifest.json"))


def test_a_tokenizer_of_its_own_is_trained_and_used_on_all_workers(
    request_: RefreshRequest, tmp_path: Path
) -> None:
    request_ = replace(request_, tokenizer=TrainedTokenizer(400))
    here = _snapshot(request_, tmp_path / "here", None)
    assert _snapshot(request_, tmp_path / "there", _POOL) == here


@pytest.fixture(scope="module")
def scored(request_: RefreshRequest, tmp_path_factory: pytest.TempPathFactory) -> RefreshRequest:
    """The same sources for a lineage whose champion scores them; what is in the middle is kept."""
    model = hub_directory(tmp_path_factory.mktemp("champion"))
    rules = PerplexityRules(tokens=40, min_nats_per_byte=5.05, max_nats_per_byte=5.25)
    return replace(
        request_,
        tokenizer=ImportedTokenizer(model),
        curate=CurateConfig(domains={"*": DomainRules(pii=PiiRules(), perplexity=rules)}),
    )


def test_the_champion_scores_the_same_with_any_number_of_workers(
    scored: RefreshRequest, tmp_path: Path
) -> None:
    assert isinstance(scored.tokenizer, ImportedTokenizer)
    model = scored.tokenizer.directory
    here = _snapshot(scored, tmp_path / "0", None, champion=model)
    assert {"perplexity:too_low", "perplexity:too_high"} <= set(here.documents_dropped)
    for num_workers in (1, 2, 4):
        pool = replace(_POOL, num_workers=num_workers)
        there = _snapshot(scored, tmp_path / str(num_workers), pool, champion=model)
        # To the byte, annotations too.
        assert there == here


def test_what_this_process_finds_wrong_ends_the_workers_too(
    request_: RefreshRequest, tmp_path: Path
) -> None:
    log, web = request_.sources
    strict = replace(request_, sources=(replace(log, reject_limit=0.0), web))
    with pytest.raises(SourceRefusedError, match="malformed_json 5"):
        _snapshot(strict, tmp_path / "s", _POOL)
    assert not list(filter(_prepares, psutil.Process().children(recursive=True)))


def test_two_machines_give_it_and_the_loss_of_one_costs_its_part_only(
    request_: RefreshRequest,
    alone: SnapshotManifest,
    nodes: NodeCluster,
    s3_root: str,
) -> None:
    nodes.add_nodes(3 - len(nodes.nodes))
    head = nodes.head
    # What lies in a temporary folder is a machine's own: the workers have no file of the sources.
    job, log = head.scratch / "refresh.pickle", head.scratch / "refresh.log"
    folder = Path(request_.sources[1].uri).parent.parent
    shutil.copytree(folder, head.scratch / folder.relative_to("/tmp"))
    workers = Workers(replace(_POOL, num_workers=3, address=nodes.ray_address))
    job.write_bytes(pickle.dumps((request_, s3_root, workers)))
    process = nodes.start(head, [sys.executable, "-c", DRIVER, f"/tmp/{job.name}"], log)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while log.read_text().count("read ") < 4:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    nodes.kill(next(node for node in nodes.nodes if node is not head))
    process.wait(PATIENCE_SECONDS)
    told = log.read_text()
    assert process.returncode == 0, told
    assert "a worker for refreshing was lost" in told
    assert f"snapshot {alone.id}" in told
    manifest = read_snapshot(open_store(s3_root), _LAYOUT, alone.id)
    assert replace(manifest, minted_at="") == alone
