"""Logging, set up once: our lines reach the terminal and, in a flow run, the Prefect API."""

import logging
import os
import sys
from typing import TextIO

OUR_PACKAGES = ("flows", "tasks", "training", "storage", "infra")


NOT_ON_A_TERMINAL = {"not_on_a_terminal": True}
"""``extra`` of a line that a terminal shows in another way, so only other readers need it."""


def set_up_logging(level: str = "INFO") -> None:
    """Send the lines of our packages to standard error; safe to call again.

    Prefect adds its API handler to the same loggers (``PREFECT_LOGGING_EXTRA_LOGGERS``, set by
    ``infra.settings``) and stops their propagation, so that no line appears twice.
    """
    for package in OUR_PACKAGES:
        logger = logging.getLogger(package)
        # Set here because the loggers would inherit Prefect's WARNING otherwise.
        logger.setLevel(level)
        if not any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
            logger.addHandler(_TerminalHandler())
        logger.propagate = False


def keep_tracebacks_off_the_terminal() -> None:
    """Let Prefect tell failures of flows and steps to its API only; call before a flow runs.

    The command line says them in one sentence of its own. The loggers' own handlers, which write
    to the API, stay; what is cut is the way to the console handler of the root logger.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
    # MLflow logs the tracebacks of errors that it raises as well.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def let_go(stream: TextIO) -> None:
    """Send what is written to a stream nowhere, when its reader has closed it (``| head``).

    Else every later flush fails, the last one when Python exits, which then ends with a code of its
    own. As the manual of Python's ``signal`` module advises.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Lines(logging.Formatter):
    """Says of a line that it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        record.mark = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class _TerminalHandler(logging.StreamHandler):  # pyright: ignore[reportMissingTypeArgument]
    """Writes to the standard error of the moment, so that progress displays may redirect it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_Lines("%(asctime)s  %(mark)s%(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if self.stream.isatty():
            if getattr(record, "not_on_a_terminal", False):
                return
            # A progress bar may stand on this line.
            self.stream.write("\r\x1b[2K")
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # Before rich, which Prefect's handler prints with, ends the process over it.
            let_go(sys.stderr)
        else:
            super().handleError(record)
