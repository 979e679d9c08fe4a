"""Start one part, and wait until it answers."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from infra.stack import processes
from infra.stack.parts import Part
from infra.stack.state import PartRecord, StackFolder, StackState
from infra.stack.status import is_alive

START_SECONDS = 120.0
_PATIENCE_SECONDS = 20.0
"""How long a living server may be silent before it is started anew."""
_POLL_SECONDS = 0.25

Tell = Callable[[str], None]
"""Takes lines for people."""


def spawn(folder: StackFolder, part: Part) -> PartRecord:
    """Start a part's first process."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    process = processes.spawn(
        part.command,
        environment=part.environment,
        mark=f"{folder.home}:{part.name}",
        log=folder.log(part.name),
        folder=folder.path,
    )
    return PartRecord(
        pid=process.pid,
        started=process.started,
        machine=processes.this_machine(),
        since=since,
    )


def wait(
    folder: StackFolder, parts: Sequence[Part], state: StackState, tell: Tell
) -> dict[str, str]:
    """Wait until all ``parts`` answer; returns what is wrong with those that do not."""
    begun = time.monotonic()
    waiting = list(parts)
    failures: dict[str, str] = {}
    while waiting:
        seconds = time.monotonic() - begun
        for part in list(waiting):
            if not is_alive(state.parts[part.name]):
                why = _last_words(folder, part)
                failures[part.name] = f"{part.title} must run, and ended: {why}"
            elif part.answers():
                where = f" at {part.url}" if part.url else ""
                tell(f"{part.title} is running{where} after {seconds:.1f} s")
            elif seconds > START_SECONDS:
                failures[part.name] = (
                    f"{part.title} must answer within {START_SECONDS:.0f} s, and did not: "
                    f"{_last_words(folder, part)}"
                )
            else:
                continue
            waiting.remove(part)
        if waiting:
            time.sleep(_POLL_SECONDS)
    return failures


def _last_words(folder: StackFolder, part: Part) -> str:
    """The last error in a part's log, else its end, for the sentence about its failure."""
    log = folder.log(part.name)
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it wrote nothing"]
    errors = [line for line in lines if "error" in line.lower()]
    return f"{(errors or lines)[-1][:200]} (see {log})"


def answers_in_time(part: Part) -> bool:
    """Whether a living part answers, with patience for a busy one."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not part.answers():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
