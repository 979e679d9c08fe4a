"""Start and stop the servers of this machine."""

import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from infra.settings import Settings
from infra.stack import processes
from infra.stack.credentials import Credentials, make_credentials
from infra.stack.databases import check_database, check_url, without_password
from infra.stack.launch import Tell, answers_in_time, spawn, wait
from infra.stack.lock import locked
from infra.stack.parts import PORTS_OF, PREFERRED_PORTS, part_names, parts_of, prepare
from infra.stack.ports import choose_port, is_free
from infra.stack.state import (
    SQLITE,
    StackError,
    StackFolder,
    StackState,
    read_state,
    write_state,
)
from infra.stack.status import PartStatus, inspect, is_alive

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL."""
_MENDING_GRACE_SECONDS = 5.0
"""The same for what is started anew, but flows, which tell Prefect how they ended."""
_NUM_ATTEMPTS = 3
"""At a port that others take."""


def start(
    settings: Settings,
    *,
    lineages: Sequence[Path] | None = None,
    ray_workers: int | None = None,
    tell: Tell = logger.info,
) -> list[PartStatus]:
    """Start what is missing or sick, and wait until everything answers. Safe to repeat.

    Args:
        settings: Home, databases and store.
        lineages: What ``perennial serve`` is to serve; without any it does not run; None for those
            of the last time.
        ray_workers: Ray nodes beside the head; None for as many as the last time.
        tell: Called with lines for people.

    Raises:
        StackError: Something does not start; what answers goes on, and a repetition starts the
            rest.
    """
    if not sys.platform.startswith("linux"):
        raise StackError(
            "'perennial up' must run on Linux, whose /proc it needs; elsewhere start the servers "
            "by hand and set PERENNIAL_PREFECT_API_URL, PERENNIAL_MLFLOW_URI, PERENNIAL_RAY_ADDRESS"
        )
    folder = StackFolder(settings.home_path)
    folder.make()
    with locked(folder, tell):
        before = read_state(folder)
        wanted = _wanted(settings, before, lineages, ray_workers)
        credentials = make_credentials(folder)
        prepare(settings)
        sick = _sick(settings, before, wanted, credentials, tell)
        _check_databases(settings, sick)
        for name in sorted(set(before.parts) - set(part_names(wanted))) + sick:
            # The agents of a Ray node whose head or raylet was killed never hear SIGTERM.
            grace_seconds = _GRACE_SECONDS if name == "serve" else _MENDING_GRACE_SECONDS
            processes.stop(_is_of(folder, name), grace_seconds=grace_seconds)
        living = {name: record for name, record in before.parts.items() if name not in sick}
        living = {name: record for name, record in living.items() if name in part_names(wanted)}
        state = replace(wanted, is_up=True, ports=_ports(wanted, sick), parts=living)
        write_state(folder, state)
        _start_all(folder, settings, state, credentials, sick, tell)
    return inspect(settings)


def stop(settings: Settings, *, tell: Tell = logger.info) -> list[str]:
    """Stop every process of the stack, first the flows, then the servers. Safe to repeat.

    Databases, passwords and ports stay. Returns the names of the parts that were running.
    """
    folder = StackFolder(settings.home_path)
    if not folder.path.exists():
        return []
    with locked(folder, tell):
        state = read_state(folder)
        names = sorted({*part_names(state), *state.parts})
        stopped = [name for name in names if processes.members(_is_of(folder, name))]
        # What would start the others again; then the flows: they tell Prefect how they ended.
        for name in ("watch", "serve"):
            processes.stop(_is_of(folder, name), grace_seconds=_GRACE_SECONDS)
        # What a damaged or removed state does not know of is found as well.
        processes.stop(
            lambda mark: mark.startswith(f"{folder.home}:"), grace_seconds=_GRACE_SECONDS
        )
        for name in stopped:
            tell(f"stopped {name}")
        write_state(folder, replace(state, is_up=False, parts={}))
    return stopped


def _wanted(
    settings: Settings, before: StackState, lineages: Sequence[Path] | None, ray_workers: int | None
) -> StackState:
    databases = {
        "prefect": settings.prefect_database_url.get_secret_value(),
        "mlflow": settings.mlflow_database_url.get_secret_value(),
    }
    for name, url in databases.items():
        if url:
            check_url(url, _variable(name))
    shown = {name: without_password(url) or SQLITE for name, url in databases.items()}
    for name, found in before.databases.items():
        if shown[name] != found:
            value = "unset" if found == SQLITE else found
            raise StackError(
                f"{_variable(name)} must be {value}, as when this home was started first, and is "
                f"{'unset' if shown[name] == 'sqlite' else shown[name]}; set it as before, or use "
                "another PERENNIAL_HOME"
            )
    files = before.lineages
    if lineages is not None:
        files = tuple(str(file.resolve()) for file in lineages)
    workers = before.ray_workers if ray_workers is None else ray_workers
    return replace(before, databases=shown, lineages=files, ray_workers=workers)


def _sick(
    settings: Settings,
    before: StackState,
    wanted: StackState,
    credentials: Credentials,
    tell: Tell,
) -> list[str]:
    """Names of the parts to start, in order."""
    names = part_names(wanted)
    if not before.ports:
        return names
    sick: set[str] = set()
    for part in parts_of(settings, replace(wanted, ports=before.ports), credentials):
        record = before.parts.get(part.name)
        # What falls with another part is not asked: it would be waited for in vain.
        if record is None or not is_alive(record) or part.falls_with in sick:
            sick.add(part.name)
        elif not answers_in_time(part):
            tell(f"{part.title} (pid {record.pid}) does not answer: it is started anew")
            sick.add(part.name)
    if wanted.lineages != before.lineages and "serve" in names:
        sick.add("serve")
    if "prefect" in sick and choose_port(before.ports["prefect"], ()) != before.ports["prefect"]:
        # What serves the old address must learn the new one.
        sick.update(name for name in names if name == "serve")
    return [name for name in names if name in sick]


def _check_databases(settings: Settings, sick: Sequence[str]) -> None:
    for name, url, driver in (
        ("prefect", settings.prefect_database_url, "asyncpg"),
        ("mlflow", settings.mlflow_database_url, "psycopg2"),
    ):
        if name in sick and url.get_secret_value():
            check_database(url.get_secret_value(), _variable(name), driver=driver)


def _variable(name: str) -> str:
    return f"PERENNIAL_{name.upper()}_DATABASE_URL"


def _ports(state: StackState, sick: Sequence[str]) -> dict[str, int]:
    """Ports of all parts; those of ``sick`` ones are chosen again."""
    ports = dict(state.ports)
    for part in sick:
        for name in PORTS_OF.get(part, ()):
            others = [port for other, port in ports.items() if other != name]
            ports[name] = choose_port(ports.get(name, PREFERRED_PORTS[name]), others)
    return ports


def _start_all(
    folder: StackFolder,
    settings: Settings,
    state: StackState,
    credentials: Credentials,
    sick: Sequence[str],
    tell: Tell,
) -> None:
    parts = [part for part in parts_of(settings, state, credentials) if part.name in sick]
    first = [part.name for part in parts if not part.follows]
    later = [part.name for part in parts if part.follows]
    for wave in (first, later):
        for attempt in range(_NUM_ATTEMPTS):
            state = _spawn_all(folder, settings, state, credentials, wave, tell)
            parts = [part for part in parts_of(settings, state, credentials) if part.name in wave]
            failures = wait(folder, parts, state, tell)
            crowded_out = _crowded_out(folder, state, failures)
            if not failures:
                break
            if len(crowded_out) < len(failures) or attempt == _NUM_ATTEMPTS - 1:
                shown = "; ".join(failures.values())
                raise StackError(f"{shown}; mend that and run 'perennial up' again")
            tell(f"another server was faster at a port of {', '.join(crowded_out)}")
            state = replace(state, ports=_ports(state, crowded_out))
            wave = crowded_out


def _spawn_all(
    folder: StackFolder,
    settings: Settings,
    state: StackState,
    credentials: Credentials,
    names: Sequence[str],
    tell: Tell,
) -> StackState:
    for part in parts_of(settings, state, credentials):
        if part.name in names:
            tell(f"starting {part.title}, log {folder.log(part.name)}")
            state = replace(state, parts={**state.parts, part.name: spawn(folder, part)})
            write_state(folder, state)
    return state


def _crowded_out(folder: StackFolder, state: StackState, names: Collection[str]) -> list[str]:
    """Parts that ended because somebody took their port between our look and their start."""
    crowded_out: list[str] = []
    for name in names:
        if is_alive(state.parts[name]):
            continue
        processes.stop(_is_of(folder, name), grace_seconds=_GRACE_SECONDS)
        if not all(is_free(state.ports[port]) for port in PORTS_OF.get(name, ())):
            crowded_out.append(name)
    return crowded_out


def _is_of(folder: StackFolder, name: str) -> Callable[[str], bool]:
    return f"{folder.home}:{name}".__eq__
