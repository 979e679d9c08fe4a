"""Runs ``perennial`` commands in processes of their own that have everything imported already.

Forked from a server that has imported torch, MLflow and Prefect once: a command takes a second and
not fifteen, and it can be killed, limited and made to fail without harm to the tests.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Prepare = Callable[[], None]
"""Done in the command's process before the command: a limit, a death foreseen."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code, or minus the signal."""
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What ``--json`` printed; fails when standard output holds anything else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of standard error that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


@dataclass(frozen=True, slots=True)
class Started:
    """A command that may still be running."""

    process: BaseProcess
    out: Path
    err: Path

    def wait(self, timeout_seconds: float = 60) -> Ended:
        """Wait for its end."""
        self.process.join(timeout_seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {timeout_seconds} s: {self.err.read_text()}")
        return Ended(code, self.out.read_text(), self.err.read_text())

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Commands:
    """Starts commands whose PERENNIAL_HOME is ``home``."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """More variables, of servers for example; those of the tests' own process were read once."""

    def start(self, *arguments: str | Path, prepare: Prepare | None = None) -> Started:
        """Start ``perennial <arguments>``."""
        context = multiprocessing.get_context("forkserver")
        # The server keeps the environment of the moment in which it is started, by the first call.
        context.set_forkserver_preload(["tests.support.preloaded"])
        self.home.parent.mkdir(parents=True, exist_ok=True)
        number = len(list(self.home.parent.glob("*.out")))
        out, err = (self.home.parent / f"{number}.{name}" for name in ("out", "err"))
        out.touch()
        argv = ["perennial", *map(str, arguments)]
        environment = {"PERENNIAL_HOME": str(self.home), **self.environment}
        process = context.Process(target=_run, args=(argv, environment, out, err, prepare))
        process.start()
        return Started(process, out, err)

    def run(
        self, *arguments: str | Path, prepare: Prepare | None = None, timeout_seconds: float = 60
    ) -> Ended:
        """Run ``perennial <arguments>`` to its end."""
        return self.start(*arguments, prepare=prepare).wait(timeout_seconds)


def kill_at(target: str, call: int = 1, number: signal.Signals = signal.SIGKILL) -> Prepare:
    """Signal the process when the function ``module.name`` is called for the n-th time."""
    return partial(_replace, target, partial(_Dying, call=call, number=number))


def fail_at(target: str, message: str) -> Prepare:
    """Let the function ``module.name`` raise a RuntimeError whenever it is called."""
    return partial(_replace, target, partial(_Failing, message=message))


def pause_at(target: str, reached: Path, release: Path) -> Prepare:
    """Create ``reached`` when ``module.name`` is called, and go on when ``release`` exists."""
    return partial(_replace, target, partial(_Pausing, reached=reached, release=release))


def limit_file_size(num_bytes: int) -> None:
    """Let no file grow beyond ``num_bytes``, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


class _Dying:
    def __init__(self, function: Callable[..., Any], *, call: int, number: signal.Signals) -> None:
        self._function = function
        self._left, self._number = call, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        return self._function(*args, **kwargs)


class _Failing:
    def __init__(self, _function: Callable[..., Any], *, message: str) -> None:
        self._message = message

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(self._message)


class _Pausing:
    def __init__(self, function: Callable[..., Any], *, reached: Path, release: Path) -> None:
        self._function = function
        self._reached = reached
        self._release = release

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._reached.touch()
        wait_for(self._release)
        return self._function(*args, **kwargs)


def wait_for(path: Path, timeout_seconds: float = 30) -> None:
    """Wait until ``path`` exists."""
    waiting = multiprocessing.get_context("forkserver").Event()
    for _ in range(int(timeout_seconds * 20)):
        if path.exists():
            return
        waiting.wait(0.05)
    raise TimeoutError(f"{path} did not appear within {timeout_seconds} s")


def _replace(target: str, make: Callable[[Callable[..., Any]], Any]) -> None:
    module_name, _, name = target.rpartition(".")
    module = import_module(module_name)
    setattr(module, name, make(getattr(module, name)))


def _run(
    argv: list[str],
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    prepare: Prepare | None,
) -> None:
    # Ctrl-C must be a KeyboardInterrupt here, as in a process that a shell starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.environ.update(environment)
    if any(name.startswith("PREFECT_") for name in environment):
        # It was imported before, and reads its environment once.
        import_module("prefect.context").refresh_global_settings_context()
    sys.argv = argv
    if prepare is not None:
        prepare()
    from flows.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
