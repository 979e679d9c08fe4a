"""What a worker really took of the memory that was estimated."""

import resource
import sys

import torch

from training.parallel.memory import GIB


def describe_peak(device: torch.device) -> str:
    """One line for people: tensors on a GPU, and on a processor the whole of this process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        return f"tensors took {peak / GIB:.2f} GiB of the GPU at most"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In KiB, but on macOS.
    peak *= 1 if sys.platform == "darwin" else 1024
    return f"the process took {peak / GIB:.2f} GiB at most"
