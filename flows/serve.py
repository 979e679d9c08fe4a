"""``perennial serve``: offers every flow of every lineage in Prefect's pages, and runs them.

Built on Prefect's runner, which starts each flow run in a process of its own, watches it, and
cancels it when a person asks for that. Added here: lineages are registered again when their YAML
changes and withdrawn when it is gone, crashed runs go on, and a stop of the service interrupts its
runs without cancelling them.
"""

import asyncio
import logging
import math
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL

from flows.automations import HEARTBEAT_SECONDS, ensure_automations
from flows.deployments import TIMETABLE, Served, deployments_of
from flows.ground import Ground
from flows.lineage import Lineage
from flows.lineage_yaml import LineageError, load_lineage
from flows.orphan import RUNNER_PID
from flows.questions import settle_questions
from flows.recovery import interrupt, recover, runs_in
from flows.retirement import find_obsolete
from infra.log import set_up_logging
from infra.settings import Settings
from infra.stack.state import StackFolder, write_private
from storage.layout import Layout
from storage.objects import open_store

logger = logging.getLogger(__name__)

QUESTIONS_SECONDS = 60
"""Between two looks whether every version that waits for a person is asked about; those who change
a lineage have looked themselves."""
POLL_SECONDS = 5
"""Between two looks for runs to start, crashed runs and changed files."""
MAX_RUNS = 16
"""Flow runs at once; each is a process."""
_MISSED = timedelta(seconds=10)
"""After which a cancellation that the runner has not begun is begun here."""
_STARTING_SECONDS = 0.1
"""Between two looks whether the runner, which can be stopped only then, has started."""
_PATTERNS = ("*.yaml", "*.yml")


def serve(paths: Sequence[Path]) -> None:
    """Register what ``paths`` name and run what is asked for, until SIGTERM or Ctrl-C.

    Raises:
        LineageError: A YAML cannot be used, or there is none.
        ValueError: No Prefect server is configured, or it stays away.
    """
    set_up_logging(Settings().log_level)
    os.environ[RUNNER_PID] = str(os.getpid())
    # Pages of tracebacks when the server is away for a moment; what they mean is seen to here.
    logging.getLogger("prefect.FlowRunCancellingObserver").setLevel(logging.CRITICAL)
    if not PREFECT_API_URL.value():
        raise ValueError(
            "'perennial serve' needs a Prefect server that stays: run 'perennial up', or set "
            "PERENNIAL_PREFECT_API_URL to one that runs"
        )
    try:
        asyncio.run(_Service(paths).run())
    except (httpx.TransportError, PrefectHTTPStatusError, ExceptionGroup) as error:
        raise ValueError(
            f"'perennial serve' needs the Prefect server at {PREFECT_API_URL.value()}, which does "
            f"not answer as it should: {_reason(error)}; see to it, then start this again"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of the innermost error."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return next(iter(str(error).splitlines()), type(error).__name__)


def find_lineages(paths: Sequence[Path]) -> list[Served]:
    """The lineages of files, and of the YAML files in folders.

    Raises:
        LineageError: A YAML cannot be used, two have one name, or there is none.
    """
    found: dict[str, Served] = {}
    for file in _files(paths):
        lineage = load_lineage(file)
        first = found.setdefault(lineage.name, Served(file, lineage))
        if first.file != file:
            raise LineageError(
                f"{file}: the lineage {lineage.name!r} is that of {first.file} as well: give each "
                "lineage a name of its own"
            )
    if not found:
        shown = ", ".join(map(str, paths)) or "nothing"
        raise LineageError(
            f"no lineage to serve: expected YAML files, or folders with some, found {shown}"
        )
    return list(found.values())


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path.absolute, paths):
        inside = [file for pattern in _PATTERNS for file in path.glob(pattern)]
        files += sorted(inside) if path.is_dir() else [path]
    return list(dict.fromkeys(files))


class _Runner(Runner):
    """Prefect's runner, which stops without cancelling what it runs."""

    def __init__(self) -> None:
        super().__init__(
            name="perennial",
            query_seconds=POLL_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            limit=MAX_RUNS,
            # The schedule goes on while nobody serves it: what was missed is run late, once.
            pause_on_shutdown=False,
        )
        self.stop_asked = anyio.Event()

    def handle_sigterm(self, *_: object) -> None:
        """Called by Python between two bytecodes of the main thread, which runs the event loop."""
        asyncio.get_running_loop().call_soon_threadsafe(self.stop_asked.set)

    def runs(self) -> set[UUID]:
        """What is being executed."""
        return self._process_manager.flow_run_ids()

    async def cancel(self, run: UUID) -> None:
        """End a run as a person asked for."""
        await self._cancellation_manager.cancel_by_id(run)

    async def cancel_all(self) -> None:
        """Called by ``astop``: SIGTERM to every run, without a word of cancellation."""
        async with anyio.create_task_group() as group:
            for run in self.runs():
                group.start_soon(self._process_manager.kill, run)


class _Service:
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._runner = _Runner()
        self._deployments: set[UUID] = set()
        self._registered: dict[Path, bytes] = {}
        self._seen: dict[Path, bytes] = {}
        self._interrupted: set[UUID] = set()
        self._names: dict[Path, str] = {}
        self._obsolete: set[UUID] = set()
        self._tidied: dict[Path, str] | None = None
        self._lineages: Sequence[Lineage] = ()
        self._settled_at = -math.inf

    async def run(self) -> None:
        await ensure_automations()
        await self._register()
        _tell_stack()
        signal.signal(signal.SIGINT, self._runner.handle_sigterm)
        async with anyio.create_task_group() as group:
            group.start_soon(self._look_after)
            group.start_soon(self._stop_when_asked)
            await self._runner.start()
            group.cancel_scope.cancel()
        async with get_client() as client:
            await interrupt(client, self._interrupted)

    async def _register(self) -> None:
        """Make Prefect show the lineages as their files are now."""
        # Read before the lineages are: what changes in between is registered again.
        before, after = self._registered, _contents(self._paths)
        lineages = find_lineages(self._paths)
        files = [served.file for served in lineages]
        for served in lineages:
            # Every form offers all files, so that a new one concerns them all.
            is_same = before.get(served.file) == after.get(served.file)
            if is_same and before.keys() == after.keys():
                continue
            for deployment in deployments_of(served, files):
                deployment_id = await self._runner.aadd_deployment(deployment)
                self._deployments.add(deployment_id)
                if not deployment.schedules:
                    await _drop_timetable(deployment_id)
            if not is_same:
                logger.info(f"serving {served.lineage.name} ({served.file}): {_when(served)}")
        # Not before: what a server that was away did not hear of is registered again.
        self._registered = self._seen = after
        self._names = {served.file: served.lineage.name for served in lineages}
        self._lineages = [served.lineage for served in lineages]
        self._settled_at = -math.inf

    async def _look_after(self) -> None:
        async with get_client() as client:
            while True:
                await anyio.sleep(POLL_SECONDS)
                try:
                    await self._register_changes()
                    await self._withdraw(client)
                    await self._cancel_what_was_missed(client)
                    mine = self._runner.runs() | self._interrupted
                    await recover(client, self._deployments, mine, datetime.now(UTC))
                    await self._settle_questions()
                except Exception as error:  # whatever a server that is away makes the client raise
                    why = str(error) or type(error).__name__
                    logger.warning(f"could not look for changed files and crashed runs: {why}")

    async def _cancel_what_was_missed(self, client: PrefectClient) -> None:
        """Cancel what a person asked for and the runner did not hear of.

        Prefect 3.8's runner stops listening for good when its server was away for some seconds
        (``FlowRunCancellingObserver``: three failed polls end it). A test tells when it does not.
        """
        for run in await runs_in(client, self._deployments, StateType.CANCELLING):
            is_late = run.state and datetime.now(UTC) - run.state.timestamp > _MISSED
            if is_late and run.id in self._runner.runs():
                logger.info(f"{run.name}: cancelled here, for the runner did not hear of it")
                await self._runner.cancel(run.id)

    async def _settle_questions(self) -> None:
        """Ask about what waits for a person, also what became so while no server was there."""
        if anyio.current_time() - self._settled_at < QUESTIONS_SECONDS:
            return
        self._settled_at = anyio.current_time()
        for lineage in self._lineages:
            await anyio.to_thread.run_sync(_settle_questions_of, lineage)

    async def _register_changes(self) -> None:
        found = _contents(self._paths)
        if found == self._seen:
            return
        try:
            await self._register()
        except LineageError as error:
            self._seen = found
            logger.warning(f"{error}; until that is mended, what was registered before stays")

    async def _withdraw(self, client: PrefectClient) -> None:
        """Take lineages that were renamed or removed off Prefect's pages; their runs stay there."""
        if self._names == self._tidied:
            return
        found = await find_obsolete(client, [path.absolute() for path in self._paths], self._names)
        # Seen twice: a file that is just being replaced is missing for a moment.
        for deployment_id in found.keys() & self._obsolete:
            await client.delete_deployment(deployment_id)
            self._deployments.discard(deployment_id)
            logger.info(f"{found[deployment_id]} is not served any more: it was withdrawn")
        self._obsolete = set(found)
        if not found:
            self._tidied = self._names

    async def _stop_when_asked(self) -> None:
        await self._runner.stop_asked.wait()
        while not self._runner.started:
            await anyio.sleep(_STARTING_SECONDS)
        self._interrupted = self._runner.runs()
        count = len(self._interrupted)
        logger.info(f"stopping; {count} runs are interrupted, and go on with the next start")
        await self._runner.astop()


def _settle_questions_of(lineage: Lineage) -> None:
    settings = Settings()
    store = open_store(settings.store_uri)
    settle_questions(Ground(lineage, settings, store, Layout(lineage.name)))


def _tell_stack() -> None:
    """Let ``perennial up`` in this home see that the lineages are registered."""
    folder = StackFolder(Settings().home_path)
    if folder.path.is_dir():
        write_private(folder.serving, str(os.getpid()))


async def _drop_timetable(deployment_id: UUID) -> None:
    """Remove a schedule that the YAML does not have any more, which registering would leave."""
    async with get_client() as client:
        for schedule in await client.read_deployment_schedules(deployment_id):
            if schedule.slug == TIMETABLE:
                await client.delete_deployment_schedule(deployment_id, schedule.id)


def _when(served: Served) -> str:
    timetable = served.lineage.schedule
    if timetable.cron is None or not timetable.enabled:
        return "updates run when asked for"
    return f"updates run at '{timetable.cron}' ({timetable.timezone})"


def _contents(paths: Sequence[Path]) -> dict[Path, bytes]:
    contents: dict[Path, bytes] = {}
    for file in _files(paths):
        try:
            contents[file] = file.read_bytes()
        except OSError:
            contents[file] = b""
    return contents
