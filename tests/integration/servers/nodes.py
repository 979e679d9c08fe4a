"""Ray nodes as processes in network namespaces: own addresses, own scratch, one cable each.

A node is a network, a mount and a process namespace. Its ``/tmp`` and ``/dev/shm`` are its own, so
what two nodes share is the code and what they can reach over the bridge: each other and one relay
to a server of this machine. There is no route to anywhere else.
"""

import contextlib
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import wait_for

_CHECKOUT = Path(__file__).resolve().parents[3]
_PREFIX = "perennial"
"""Of the names of namespaces and bridges: ``perennial<pid>-<n>``, so that leftovers are known."""
_BRIDGE = "pnl"
_RELAY = Path(__file__).with_name("relay.py")
_RAY_PORT = 6379
_RAY_LOG = "ray-start.log"
_START_SECONDS = 240.0
HEALTH_CHECK = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""The head gives up a silent node after at most 4 x (2 + 1) s; Ray's own values allow 65 s."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine, as far as its processes can tell."""

    name: str
    """Of its network namespace."""
    address: str
    scratch: Path
    """What its processes see as ``/tmp``."""
    init: "subprocess.Popen[bytes]"
    """Its first process: when it dies, the kernel kills all others of the node at once."""
    inside: int
    """Process id, seen from here, of a process in the node's namespaces."""


@dataclass(slots=True)
class NodeCluster:
    """A bridge with nodes; the first one is Ray's head."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Of every process on every node, beside what makes it a node."""
    nodes: list[Node] = field(default_factory=list[Node])
    """Machines that Ray was started on."""
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    _machines: list[Node] = field(default_factory=list[Node])
    _started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(2))

    @property
    def head(self) -> Node:
        """Where drivers run."""
        return self.nodes[0]

    @property
    def ray_address(self) -> str:
        """Of the head's Ray."""
        return f"{self.head.address}:{_RAY_PORT}"

    def add_nodes(self, count: int, *, num_cpus: int = 1) -> list[Node]:
        """Start ``count`` more Ray nodes and wait until the head knows them."""
        added = [self.add_machine() for _ in range(count)]
        self.nodes += added
        if self.head in added:
            # The others would give up before it listens.
            self._start_ray([self.head], num_cpus)
        self._start_ray([node for node in added if node is not self.head], num_cpus)
        return added

    def add_machine(self) -> Node:
        """Start a machine on the bridge that is no Ray node."""
        number = next(self._numbers)
        name = f"{_PREFIX}{os.getpid()}-{number}"
        address = f"{_subnet()}.{number}"
        _ip("netns", "add", name)
        _ip("link", "add", _cable(name), "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", _cable(name), "master", _bridge(), "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        scratch = self.folder / name
        (scratch / "home").mkdir(parents=True)
        token = scratch / "ray-token"
        token.touch(0o600)
        token.write_text(self.token)
        mounts = (
            f"{_keep_the_code(scratch)}mount --rbind '{scratch}' /tmp && "
            "mount -t tmpfs -o size=512m tmpfs /dev/shm && touch /tmp/is-up && exec sleep infinity"
        )
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        init = subprocess.Popen(["ip", "netns", "exec", name, *unshare, "sh", "-c", mounts])
        _wait((scratch / "is-up").exists, f"the namespaces of {name}")
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()
        node = Node(name, address, scratch, init, int(children[0]))
        self._machines.append(node)
        return node

    def start(
        self, node: Node, command: list[str], log: Path, **more: str
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a node; ``more`` is added to its environment."""
        inside = ["nsenter", "-t", str(node.inside), "-n", "-m", "-p", *command]
        with log.open("wb") as out:
            process = subprocess.Popen(
                inside,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**self._environment_of_a_node(), **more},
            )
        self._started.append(process)
        return process

    def cut_off(self, node: Node) -> None:
        """Pull the node's cable: nobody hears anything of it, not even a reset."""
        _ip("link", "set", _cable(node.name), "down")

    def reconnect(self, node: Node) -> None:
        """Put the cable back."""
        _ip("link", "set", _cable(node.name), "up")

    def ray_processes(self, node: Node) -> list[str]:
        """Commands of the Ray processes that run on the node."""
        listing = ["ps", "-eo", "args="]
        command = ["nsenter", "-t", str(node.inside), "-n", "-m", "-p", *listing]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [
            line
            for line in found.splitlines()
            if ("ray::" in line or "raylet" in line) and "<defunct>" not in line
        ]

    def kill(self, node: Node) -> None:
        """SIGKILL every process of the node in one moment; the machine is gone then."""
        self._machines.remove(node)
        if node in self.nodes:
            self.nodes.remove(node)
        _tear_down(node)

    @contextlib.contextmanager
    def relay_to(self, host: str, port: int) -> Generator[str]:
        """Pass TCP connections on to a server of this machine; yields the URL that nodes use."""
        command = [sys.executable, str(_RELAY), f"{_subnet()}.1", host, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            try:
                yield f"http://{_subnet()}.1:{int(relay.stdout.readline())}"
            finally:
                relay.kill()

    def close(self) -> None:
        """Remove all machines and the bridge."""
        for node in [*self._machines]:
            self.kill(node)
        for process in self._started:
            process.wait()
        remove_leftovers(os.getpid())

    def _start_ray(self, nodes: list[Node], num_cpus: int) -> None:
        """Start Ray on the nodes at once and wait for all.

        Ray gives a start up after 30 s, which a busy machine may need: then it starts again.
        """
        options = [f"--num-cpus={num_cpus}", "--object-store-memory=100000000"]
        starting: dict[str, subprocess.Popen[bytes]] = {}

        def have_joined() -> bool:
            for node in nodes:
                if node.name not in starting or starting[node.name].poll() is not None:
                    place = ["--head", f"--port={_RAY_PORT}", "--include-dashboard=false"]
                    if node is not self.head:
                        place = [f"--address={self.ray_address}"]
                    command = [_script("ray"), "start", "--block", "--disable-usage-stats"]
                    command += [*place, *options, f"--node-ip-address={node.address}"]
                    starting[node.name] = self.start(node, command, node.scratch / _RAY_LOG)
            return all(
                b"Ray runtime started." in (node.scratch / _RAY_LOG).read_bytes() for node in nodes
            )

        _wait(have_joined, f"Ray on {len(nodes)} nodes")

    def _environment_of_a_node(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": "/tmp/home",
            "PERENNIAL_HOME": "/tmp/home",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": "/tmp/ray-token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            # One process less a training; of announced ends there are none here.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "RAY_START_HOOK": "training.cluster.node.without_client",
            **HEALTH_CHECK,
            **self.environment,
        }


@contextlib.contextmanager
def node_cluster(folder: Path) -> Generator[NodeCluster]:
    """A bridge without nodes yet; everything is removed afterwards, also what others left."""
    remove_leftovers()
    _ip("link", "add", _bridge(), "type", "bridge")
    cluster = NodeCluster(folder)
    try:
        # Its own, or it would change with every cable, and nodes would send to the old one for
        # half a minute.
        _ip("link", "set", _bridge(), "address", "02:00:00:00:00:01")
        _ip("addr", "add", f"{_subnet()}.1/24", "dev", _bridge())
        _ip("link", "set", _bridge(), "up")
        yield cluster
    finally:
        cluster.close()


def remove_leftovers(owner: int | None = None) -> None:
    """Remove what sessions that are dead, or the process ``owner``, left behind."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for name in re.findall(rf"^{_PREFIX}\d+-\d+", listed.stdout, re.MULTILINE):
        if _is_left(int(name.removeprefix(_PREFIX).split("-")[0]), owner):
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "delete", name)
    for link in Path("/sys/class/net").glob(f"{_BRIDGE}*"):
        number = link.name.removeprefix(_BRIDGE)
        if number.isdigit() and _is_left(int(number), owner):
            _ip("link", "delete", link.name)


def _tear_down(node: Node) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(node.inside, signal.SIGKILL)
    node.init.kill()
    node.init.wait()
    _ip("netns", "delete", node.name)
    with contextlib.suppress(OSError):
        shutil.rmtree(node.scratch / "home")


def _wait(is_done: Callable[[], object], what: str) -> None:
    wait_for(is_done, _START_SECONDS, what)


def _is_left(pid: int, owner: int | None) -> bool:
    return pid == owner or not Path(f"/proc/{pid}").exists()


def _bridge() -> str:
    return f"{_BRIDGE}{os.getpid()}"


def _cable(name: str) -> str:
    """This machine's end of a node's cable; the kernel allows 15 letters."""
    return f"v{name.removeprefix(_PREFIX)}"


def _subnet() -> str:
    # Sessions side by side get networks of their own, as far as their numbers differ.
    return f"10.213.{os.getpid() % 254 + 1}"


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _keep_the_code(scratch: Path) -> str:
    """Shell commands that let a node see this checkout when it lies in the /tmp it has not."""
    if not _CHECKOUT.is_relative_to("/tmp"):
        return ""
    inside = scratch / _CHECKOUT.relative_to("/tmp")
    return f"mkdir -p '{inside}' && mount --bind '{_CHECKOUT}' '{inside}' && "


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
