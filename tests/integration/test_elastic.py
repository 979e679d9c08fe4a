"""A training whose machines come and go: fewer workers, more, one that hangs, a new head."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.objects import open_store
from tests.support.waiting import wait_for
from tests.training.local_ranks import run_ranks
from tests.training.tiny_run import LAYOUT, free_port, tiny_plan
from training.checkpoint.index import committed_steps
from training.errors import TrainingStoppedError
from training.launch import run_training
from training.metrics import CHECKSUM, LOSS, read_metrics

pytestmark = [pytest.mark.integration, pytest.mark.long]

PATIENCE_SECONDS = 240


class Machines:
    """Ray nodes on this machine, each with room for one worker; the head has none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, *options: str, cpus: int = 1) -> None:
        """Start one node; it joins as soon as it can."""
        command = [sys.executable, "-m", "training.cluster.node", "start", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", f"--node-name={name}"]
        command += ["--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--dashboard-agent-listen-port=0", "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*command, *(options or (f"--address={self.address}",))], stdout=log, stderr=log
            )

    def start_all(self) -> None:
        """A head without room, and two machines."""
        self.start(
            "head", "--head", f"--port={self.port}", "--include-dashboard=false", self._temp, cpus=0
        )
        wait_for(self._head_listens, PATIENCE_SECONDS, "Ray's head")
        for name in ("one", "two"):
            self.start(name)
        for name in ("one", "two"):
            wait_for(lambda name=name: "block forever" in self.log(name), PATIENCE_SECONDS, name)

    def log(self, name: str) -> str:
        """What a node has said."""
        return (self.folder / f"{name}.log").read_text()

    @property
    def _temp(self) -> str:
        return f"--temp-dir=/tmp/elastic-{os.getpid()}"

    def _head_listens(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a node; SIGKILL takes all that belongs to it."""
        process = self.processes[name]
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        if number == signal.SIGKILL:
            for one in family:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    machines = Machines(tmp_path)
    machines.start_all()
    yield machines
    for name, process in machines.processes.items():
        if process.poll() is None:
            machines.end(name)


class Story:
    """Does one thing after the other, each when its time has come; asks to stop after the last.

    Args:
        scenes: When, and what then.
    """

    def __init__(self, *scenes: tuple[Callable[[], bool], Callable[[], object]]) -> None:
        self.left = list(scenes)

    def __call__(self) -> bool:
        if self.left and self.left[0][0]():
            self.left.pop(0)[1]()
        return not self.left


class Run:
    """A training on one or two of the machines, much longer than any test."""

    def __init__(self, machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.machines, self.caplog = machines, caplog
        self.plan, self.uri = tiny_plan(machines.folder / "store", num_steps=30_000)
        self.reached = 0

    @property
    def done(self) -> int:
        """Steps of the newest checkpoint."""
        steps = committed_steps(open_store(self.uri), self.plan.checkpoint_prefix)
        return max(steps, default=0)

    @property
    def lives(self) -> list[str]:
        """Numbers of workers, one life after the other."""
        return [line.split()[-2] for line in self.caplog.messages if "u1 runs on" in line]

    def gets_on_with(self, count: int) -> Callable[[], bool]:
        """Whether the last life has that many workers and has saved something."""

        def has_come() -> bool:
            is_so = self.lives[-1:] == [str(count)] and self.done > self.reached + 6
            self.reached = self.done if is_so else self.reached
            return is_so

        return has_come

    def tell(self, story: Story, **options: Any) -> None:
        """Train until the story is over."""
        with pytest.raises(TrainingStoppedError, match="u1 was asked to stop, and has done"):
            run_training(
                self.plan,
                store_uri=self.uri,
                num_workers=(1, 2),
                work_dir=self.machines.folder / "work",
                threads_per_worker=1,
                ray_address=self.machines.address,
                wait_seconds=PATIENCE_SECONDS,
                is_asked_to_stop=story,
                **options,
            )

    def assert_undisturbed_samples(self) -> None:
        """As an undisturbed run on two ranks, but for the order of sums."""
        rows = read_metrics(open_store(self.uri), LAYOUT.metrics("u1"))
        root = self.machines.folder
        whole, uri = tiny_plan(root / "whole", num_steps=self.plan.num_steps)
        run_ranks(whole, uri, root / "whole-work", world_size=2, stop_at=len(rows) + 4)
        expected = read_metrics(open_store(uri), LAYOUT.metrics("u1"))[: len(rows)]
        assert [row[CHECKSUM] for row in rows] == [row[CHECKSUM] for row in expected]
        losses = zip(rows[:50], expected[:50], strict=True)
        assert max(abs(ours[LOSS] - theirs[LOSS]) for ours, theirs in losses) < 1e-5


def test_a_machine_leaves_and_another_joins_and_the_training_goes_on_at_once(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(machines, caplog)
    run.tell(
        Story(
            (run.gets_on_with(2), lambda: machines.end("two")),
            (run.gets_on_with(1), lambda: machines.start("three")),
            (run.gets_on_with(2), lambda: None),
        )
    )
    assert run.lives[-3:] == ["2", "1", "2"]
    assert "there is room for 2 workers instead of 1" in caplog.text
    # The machine that went is a failure, the one that came is none.
    assert "1 of at most 3 times" in caplog.text
    assert "2 of at most 3 times" not in caplog.text
    run.assert_undisturbed_samples()


def test_a_machine_that_hears_sigterm_is_left_with_a_checkpoint_before_it_ends(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(machines, caplog)
    run.tell(
        Story(
            (run.gets_on_with(2), lambda: machines.end("two", signal.SIGTERM)),
            (run.gets_on_with(1), lambda: None),
        )
    )
    assert "a machine is about to end" in caplog.text
    assert "of at most 3 times" not in caplog.text
    run.assert_undisturbed_samples()


def test_a_rank_that_hangs_is_named_with_its_machine_and_replaced(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(machines, caplog)
    hanging: list[int] = []

    def hang() -> None:
        worker = psutil.Process(machines.processes["two"].pid).children(recursive=True)
        (found,) = [one for one in worker if "RayTrainWorker" in " ".join(one.cmdline())]
        found.suspend()
        hanging.append(found.pid)

    run.tell(
        Story((run.gets_on_with(2), hang), (run.gets_on_with(2), lambda: None)), silence_seconds=20
    )
    named = f"(process {hanging[0]}), silent for"
    assert "no rank got on for 1" in caplog.text
    (failure,) = [line for line in caplog.messages if "1 of at most 3 times" in line]
    assert "all waited for rank" in failure
    assert named in failure


def test_a_new_head_at_the_address_of_a_dead_one_is_waited_for(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(machines, caplog)

    def replace_head() -> None:
        for name in ("head", "one", "two"):
            machines.end(name)
        # Whoever looks after the cluster takes a while.
        time.sleep(3)
        machines.start_all()

    run.tell(Story((run.gets_on_with(2), replace_head), (run.gets_on_with(2), lambda: None)))
    assert "Ray's driver ended with" in caplog.text
    run.assert_undisturbed_samples()
