"""Logging, set up once: our lines reach the terminal and, in a flow run, the Prefect API."""

import logging
import sys

OUR_PACKAGES = ("flows", "tasks", "training", "storage", "infra")


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


class _TerminalHandler(logging.StreamHandler):  # pyright: ignore[reportMissingTypeArgument]
    """Writes to the standard error of the moment, so that progress displays may redirect it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if self.stream.isatty():
            # A progress bar may stand on this line.
            self.stream.write("\r\x1b[2K")
        super().emit(record)
