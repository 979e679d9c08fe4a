"""A flow run ends itself when nobody watches over it."""

import os
import signal
import subprocess
import sys

import pytest

from flows.orphan import RUNNER_PID

PROGRAM = """
import time
from flows.orphan import end_with_runner
end_with_runner()
time.sleep(3)
"""
DEPLOYMENT = {"PREFECT__RUNTIME__DEPLOYMENT__ID": "of-a-test"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        # The runner was gone before the run had imported anything: pid 1 is nobody's runner here.
        ({**DEPLOYMENT, RUNNER_PID: "1"}, -signal.SIGTERM),
        ({**DEPLOYMENT, RUNNER_PID: str(os.getpid())}, 0),
        (DEPLOYMENT, 0),
        # A command in a shell.
        ({RUNNER_PID: "1"}, 0),
    ],
)
def test_a_run_without_its_runner_ends(changes: dict[str, str], code: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != RUNNER_PID}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **changes}, timeout=60
    )
    assert ended.returncode == code
