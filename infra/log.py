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


class _TerminalHandler(logging.StreamHandler):  # pyright: ignore[reportMissingTypeArgument]
    """Writes to the standard error of the moment, so that progress displays may redirect it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
