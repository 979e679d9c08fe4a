"""How the parts of the stack are; changes nothing."""

from dataclasses import dataclass
from typing import Literal

from infra.settings import Settings
from infra.stack import processes
from infra.stack.credentials import read_credentials
from infra.stack.lock import is_locked
from infra.stack.parts import Part, parts_of
from infra.stack.state import PartRecord, StackError, StackFolder, StackState, read_state

Condition = Literal["running", "starting", "not answering", "dead", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """One row of ``perennial status``."""

    part: str
    condition: Condition
    pid: int | None
    url: str
    """Page for people; empty when it has none."""
    since: str
    """UTC, ISO 8601."""
    log: str


def inspect(settings: Settings) -> list[PartStatus]:
    """How every part is; empty when nothing was ever started."""
    folder = StackFolder(settings.home_path)
    state = read_state(folder)
    if not state.ports:
        return []
    credentials = read_credentials(folder)
    # Asked before the parts: what is not started yet must not look dead.
    is_starting = is_locked(folder)
    state = read_state(folder)
    parts = parts_of(settings, state, credentials)
    return [_status(folder, state, part, is_starting) for part in parts]


def require(settings: Settings, name: str) -> None:
    """Refuse to go on when commands are to use a part of the stack that does not answer.

    Raises:
        StackError: Says what to do.
    """
    state = settings.stack
    if state is None:
        return
    credentials = read_credentials(StackFolder(settings.home_path))
    part = next(part for part in parts_of(settings, state, credentials) if part.name == name)
    record = state.parts.get(name)
    if record is not None and is_alive(record) and part.answers():
        return
    raise StackError(
        f"the {part.title} of 'perennial up' does not answer at {part.url}: run 'perennial up', or "
        "'perennial down' to work without it"
    )


def is_alive(record: PartRecord) -> bool:
    """Whether the process that a part was started as still lives."""
    if record.machine != processes.this_machine():
        return False
    return processes.is_alive(processes.Process(record.pid, record.started))


def _status(folder: StackFolder, state: StackState, part: Part, is_starting: bool) -> PartStatus:
    record = state.parts.get(part.name)
    return PartStatus(
        part=part.name,
        condition=_condition(state, part, is_starting),
        pid=record.pid if record else None,
        url=part.url,
        since=record.since if record else "",
        log=str(folder.log(part.name)),
    )


def _condition(state: StackState, part: Part, is_starting: bool) -> Condition:
    record = state.parts.get(part.name)
    if record is None:
        if not state.is_up:
            return "stopped"
        return "starting" if is_starting else "dead"
    if not is_alive(record):
        return "dead"
    if part.answers():
        return "running"
    return "starting" if is_starting else "not answering"
