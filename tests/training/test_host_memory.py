"""The allocator of a process that trains."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource
import sys
import torch
from training.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def pages_touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_touched()
print(pages_touched())
"""


def _pages_touched_again(kind: str) -> int:
    command = [sys.executable, "-c", _SCRIPT, kind]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_a_tensor_left_is_taken_again_without_the_kernel() -> None:
    """20 tensors of 64 MB: what one of them needs is a fraction of what all would."""
    of_all = _pages_touched_again("leave")
    assert of_all > 1_000
    assert _pages_touched_again("keep") < of_all / 10
