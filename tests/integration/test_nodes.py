"""Trainings whose workers sit on different machines: cut off, killed, replaced, done without."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from storage.objects import ObjectStore, open_store
from tests.integration.servers.gateway import Gateway
from tests.integration.servers.nodes import Node, NodeCluster, remove_leftovers
from tests.support.deployment import IMAGES
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, plan_in, tensors_of, tiny_plan
from training.checkpoint.index import committed_steps, step_prefix
from training.config import TrainPlan
from training.metrics import CHECKSUM, LOSS, MEASURED, STEP, TIME, read_metrics
from training.parallel.config import ParallelConfig

pytestmark = pytest.mark.integration

DRIVER = """
import logging, pickle, sys
from pathlib import Path
from training.errors import TrainingError
from training.launch import run_training

logging.basicConfig(level=logging.INFO)
plan, options = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    run_training(plan, work_dir=Path("/tmp/home/work"), threads_per_worker=1, **options)
except TrainingError as error:
    sys.exit(f"given up: {error}")
"""
NUM_STEPS = 60
PATIENCE_SECONDS = 300
"""Ends a test that hangs; no outcome depends on it."""
SOME_STEPS = 9
"""Their checkpoint is in the store, and most of the training still to come."""


@dataclass(frozen=True, slots=True)
class Run:
    """A training that was started on the head."""

    cluster: NodeCluster
    plan: TrainPlan
    store: ObjectStore
    log: Path
    process: "subprocess.Popen[bytes]"

    def wait_for_step(self, step: int) -> None:
        """Until a checkpoint of ``step`` or later was committed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while max(committed_steps(self.store, self.plan.checkpoint_prefix), default=0) < step:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no step {step}: {self.log.read_text()}"
            time.sleep(0.05)

    def wait(self) -> str:
        """Until its end; returns what it printed."""
        self.process.wait(PATIENCE_SECONDS)
        return self.log.read_text()

    def loses_a_machine(self) -> Node:
        """A machine with a worker, but not the driver, in the middle of the training."""
        self.wait_for_step(SOME_STEPS)
        hosts = [node for node in self.cluster.nodes if (work_dir(node) / "shards").exists()]
        assert len(hosts) > 1
        assert not self.has_ended
        return next(node for node in hosts if node is not self.cluster.head)

    @property
    def has_ended(self) -> bool:
        """Whether the last checkpoint is there."""
        return self.store.exists(f"{self.final}/manifest.json")

    @property
    def final(self) -> str:
        """Prefix of the last checkpoint."""
        return step_prefix(self.plan.checkpoint_prefix, self.plan.num_steps)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Metrics by step."""
        return read_metrics(self.store, LAYOUT.metrics(self.plan.update))


@pytest.fixture
def cluster(nodes: NodeCluster) -> NodeCluster:
    """Three machines that have done nothing yet; the head's logs stay."""
    nodes.add_nodes(3 - len(nodes.nodes))
    for node in nodes.nodes:
        shutil.rmtree(work_dir(node), ignore_errors=True)
    return nodes


def work_dir(node: Node) -> Path:
    return node.scratch / "home/work"


def start(cluster: NodeCluster, plan: TrainPlan, store: ObjectStore, **options: object) -> Run:
    """Start a training on the head."""
    options = {"store_uri": store.uri, "ray_address": cluster.ray_address, **options}
    return start_on(cluster.head, [], cluster, plan, store, options)


def start_on(
    node: Node,
    before: list[str],
    cluster: NodeCluster,
    plan: TrainPlan,
    store: ObjectStore,
    options: dict[str, object],
    **more: str,
) -> Run:
    """Start a training on a machine, by a command that is put before the driver's own."""
    job = node.scratch / f"{plan.update}.pickle"
    job.write_bytes(pickle.dumps((plan, options)))
    command = [*before, sys.executable, "-c", DRIVER, f"/tmp/{job.name}"]
    log = job.with_suffix(".log")
    return Run(cluster, plan, store, log, cluster.start(node, command, log, **more))


def for_three(plan: TrainPlan) -> TrainPlan:
    """A global batch that three workers can share, and two."""
    return replace(plan, global_batch_samples=6)


def undisturbed(
    folder: Path, num_workers: int, plan: TrainPlan, parallel: ParallelConfig | None = None
) -> Run:
    """The same training on ranks of this machine, without Ray, S3 or loss."""
    local, uri = tiny_plan(folder / "store", num_steps=plan.num_steps, update=plan.update)
    assert replace(plan, precision="fp32", global_batch_samples=8) == local
    run_ranks(plan, uri, folder / "work", world_size=num_workers, parallel=parallel)
    ended = subprocess.Popen(["true"])
    ended.wait()
    return Run(NodeCluster(folder), plan, open_store(uri), folder / "log", ended)


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if name not in MEASURED} for row in rows]


def seconds_until_next_step(run: Run, lost_at: float) -> float:
    """From the loss to the end of the first step that was taken again or anew."""
    return min(row[TIME] for row in run.rows if row[TIME] > lost_at + 2) - lost_at


def files_with(secret: str, folder: Path) -> list[Path]:
    """Regular files that hold it, logs above all."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.long
def test_a_machine_that_was_cut_off_and_comes_back_does_no_harm(
    cluster: NodeCluster, s3_root: str, tmp_path: Path, record_property: Any
) -> None:
    store = open_store(s3_root)
    plan = replace(for_three(plan_in(store, num_steps=NUM_STEPS)), precision="bf16", update="cut")
    plan = replace(plan, checkpoint_prefix=LAYOUT.checkpoints("cut"))
    run = start(cluster, plan, store, num_workers=3)
    lost = run.loses_a_machine()
    cluster.cut_off(lost)
    lost_at = time.time()
    cluster.add_nodes(1)
    reached = max(committed_steps(store, plan.checkpoint_prefix))
    run.wait_for_step(reached + 1)
    assert not run.has_ended
    cluster.reconnect(lost)
    text = run.wait()
    assert run.process.returncode == 0, text
    assert "1 of at most 3 times" in text
    record_property("seconds_to_next_step", seconds_until_next_step(run, lost_at))
    whole = undisturbed(tmp_path, 3, plan)
    # What still ran over there hears that it is dead, and ends.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while cluster.ray_processes(lost):
        assert time.monotonic() < deadline, cluster.ray_processes(lost)
        time.sleep(0.1)
    cluster.kill(lost)
    assert tensors_of(store, run.final) == tensors_of(whole.store, run.final)
    assert without_clock(run.rows) == without_clock(whole.rows)


def test_a_model_in_shards_on_three_machines_survives_the_loss_of_one(
    cluster: NodeCluster, s3_root: str, tmp_path: Path
) -> None:
    store = open_store(s3_root)
    plan = for_three(plan_in(store, num_steps=NUM_STEPS))
    sharded = ParallelConfig(strategy="fsdp", activation_checkpointing="full")
    run = start(cluster, plan, store, num_workers=3, parallel=sharded)
    cluster.kill(run.loses_a_machine())
    cluster.add_nodes(1)
    text = run.wait()
    assert run.process.returncode == 0, text
    assert "1 of at most 3 times" in text
    whole = undisturbed(tmp_path, 3, plan, sharded)
    assert tensors_of(store, run.final) == tensors_of(whole.store, run.final)
    assert without_clock(run.rows) == without_clock(whole.rows)


@pytest.mark.long
def test_without_a_replacement_the_training_ends_and_goes_on_with_fewer_workers(
    cluster: NodeCluster, s3_root: str, tmp_path: Path
) -> None:
    store = open_store(s3_root)
    plan = for_three(plan_in(store, num_steps=NUM_STEPS))
    run = start(cluster, plan, store, num_workers=3, wait_seconds=5)
    cluster.kill(run.loses_a_machine())
    text = run.wait()
    assert (
        "given up: u1 needs room for 3 workers within 5 s, and the 2 machines of the cluster have "
        "2 CPU in all" in text
    )
    done = run.rows[-1][STEP]
    assert SOME_STEPS <= done < NUM_STEPS
    run = start(cluster, plan, store, num_workers=2)
    whole = undisturbed(tmp_path, 3, plan)
    text = run.wait()
    assert run.process.returncode == 0, text
    # The same samples in every step, so the same sums of other order: the first rows have the same
    # bits, later ones differ by rounding, which AdamW carries on.
    assert [row[CHECKSUM] for row in run.rows] == [row[CHECKSUM] for row in whole.rows]
    resumed_from = done // plan.checkpoint_every_steps * plan.checkpoint_every_steps
    before = slice(0, resumed_from)
    assert without_clock(run.rows[before]) == without_clock(whole.rows[before])
    worst = max(abs(a[LOSS] - b[LOSS]) for a, b in zip(run.rows, whole.rows, strict=True))
    assert 0 < worst < 1e-4


def test_who_has_another_token_neither_becomes_a_node_nor_trains(
    cluster: NodeCluster, s3_root: str
) -> None:
    store = open_store(s3_root)
    plan = plan_in(store, num_steps=3)
    stranger = cluster.add_machine()
    (stranger.scratch / "other-token").write_text("e" * 64)
    other = {"RAY_AUTH_TOKEN_PATH": "/tmp/other-token"}
    options: dict[str, object] = {"store_uri": store.uri, "num_workers": 2}
    options["ray_address"] = cluster.ray_address
    try:
        refused = start_on(stranger, beside_a_node(cluster), cluster, plan, store, options, **other)
        second = replace(plan, update="u2")
        driver = start_on(stranger, [], cluster, second, store, options, **other)
        text = refused.wait()
        assert refused.process.returncode == 1, text
        assert f"there must be a Ray cluster at {cluster.ray_address} that takes this" in text
        text = driver.wait()
        assert driver.process.returncode == 1, text
        assert "given up: this machine must be a node of the Ray cluster" in text
    finally:
        cluster.kill(stranger)


def beside_a_node(cluster: NodeCluster) -> list[str]:
    """What deployments put before a command that starts trainings."""
    return ["bash", str(IMAGES / "on-ray-node.sh"), cluster.ray_address]


def start_update(
    cluster: NodeCluster, machine: Node, name: str, root: str
) -> "subprocess.Popen[bytes]":
    """Start the whole command on a machine, with a store and a home of this name."""
    is_node = machine in cluster.nodes
    update = "exec perennial update /tmp/lineage/lineage.yaml --json"
    command = f"{update} > /tmp/{name}.out 2> /tmp/{name}.err"
    return cluster.start(
        machine,
        [*([] if is_node else beside_a_node(cluster)), "sh", "-c", command],
        machine.scratch / f"{name}.log",
        PERENNIAL_STORAGE_ROOT=f"{root}/{name}",
        PERENNIAL_HOME=f"/tmp/{name}",
        PERENNIAL_RAY_ADDRESS=cluster.ray_address if is_node else "auto",
    )


def outcome_of(machine: Node, name: str, update: "subprocess.Popen[bytes]") -> Any:
    """What the command printed, without what names its store."""
    code = update.wait(PATIENCE_SECONDS)
    out, err = ((machine.scratch / f"{name}.{end}").read_text() for end in ("out", "err"))
    assert code == 0, err
    told = json.loads(out)
    # What the clock says.
    del told["details"]["goodput"]
    return {key: value for key, value in told.items() if key != "report"}


def lasting_keys(store: ObjectStore) -> list[str]:
    """Keys of what an update leaves for good; metrics come in chunks that the clock cuts."""
    keys = [info.key for info in store.list("lineages")]
    return [key for key in keys if "/metrics/" not in key and "/lives/" not in key]


def test_an_update_that_loses_a_machine_ends_as_if_nothing_had_happened(
    cluster: NodeCluster, s3_root: str, gateway: Gateway, record_property: Any
) -> None:
    lineage = TinyLineage(cluster.head.scratch / "lineage")
    lineage.add("prose")
    lineage.add("ledger")
    steps = {"first_tokens": 240 * 16 * SEQ_LEN}
    lineage.write(compute={"num_workers": 2}, budget=steps)
    # The undisturbed one is started where deployments start theirs: beside a node without room.
    machine = cluster.add_machine()
    shutil.copytree(lineage.folder, machine.scratch / "lineage")
    whole = outcome_of(machine, "whole", start_update(cluster, machine, "whole", s3_root))
    assert not any((machine.scratch / "whole/work").rglob("shards"))
    cluster.kill(machine)

    store = open_store(f"{s3_root}/lost")
    update = start_update(cluster, cluster.head, "lost", s3_root)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any("/checkpoints/" in key and "manifest" in key for key in lasting_keys(store)):
        assert update.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hosts = [n for n in cluster.nodes if any((n.scratch / "lost/work").rglob("shards"))]
    assert len(hosts) == 2
    lost = next(node for node in hosts if node is not cluster.head)
    assert not any("/step-240/" in key for key in lasting_keys(store))
    lost_at = time.time()
    cluster.kill(lost)
    outcome = outcome_of(cluster.head, "lost", update)
    assert "1 of at most 3 times" in (cluster.head.scratch / "lost.err").read_text()
    assert outcome == whole
    assert outcome["kind"] == "PASS"
    assert outcome["head"] is not None

    undisturbed = open_store(f"{s3_root}/whole")
    keys = lasting_keys(store)
    assert keys == lasting_keys(undisturbed)
    weights = [key for key in keys if key.endswith("model.safetensors")]
    assert len(weights) == 1
    assert store.get(weights[0]) == undisturbed.get(weights[0])

    prefix = next(key for key in keys if "/checkpoints/" in key).split("/checkpoints/")[0]
    rows = read_metrics(store, f"{prefix}/metrics")
    assert without_clock(rows) == without_clock(read_metrics(undisturbed, f"{prefix}/metrics"))
    after = min(row[TIME] for row in rows if row[TIME] > lost_at + 2) - lost_at
    record_property("seconds_to_next_step", after)

    # Credentials are in the environment of the machines, and nowhere else.
    for node in [*cluster.nodes, lost, machine]:
        assert len([*node.scratch.rglob("*.log")]) > 5
        assert files_with(gateway.owner.secret_key, node.scratch) == []
        assert [file.name for file in files_with(cluster.token, node.scratch)] == ["ray-token"]


def test_nodes_that_a_dead_session_left_are_removed_and_those_of_others_are_not(
    cluster: NodeCluster,
) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    left = f"perennial{dead.pid}-2"
    subprocess.run(["ip", "netns", "add", left], check=True)
    holding = subprocess.Popen(["ip", "netns", "exec", left, "sleep", "infinity"])
    subprocess.run(["ip", "link", "add", f"pnl{dead.pid}", "type", "bridge"], check=True)
    remove_leftovers()
    assert holding.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert not Path(f"/sys/class/net/pnl{dead.pid}").exists()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    names = {line.split()[0] for line in listed.stdout.splitlines()}
    assert left not in names
    assert {node.name for node in cluster.nodes} <= names


def test_nodes_have_no_way_out_but_the_bridge(cluster: NodeCluster) -> None:
    routes = cluster.head.scratch / "routes.log"
    assert cluster.start(cluster.head, ["ip", "route"], routes).wait(PATIENCE_SECONDS) == 0
    (only,) = routes.read_text().splitlines()
    assert only.startswith("10.213.")
    assert "via" not in only
