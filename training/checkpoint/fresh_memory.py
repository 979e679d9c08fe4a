"""Memory that a checkpoint's tensors are read into."""

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.checkpoint.pieces import Slot
from training.processor import processor_flags

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}
"""What safetensors calls them."""
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
_HUGE_PAGE_BYTES = 2 << 20
_ALIGNMENT = 64
"""As torch allocates: a sum must not depend on whether its numbers were restored."""
_madvise: Any = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
_MADV_POPULATE_WRITE = 23
"""``madvise(2)``, Linux 5.14."""


def empty_tensors(slots: Iterable[Slot]) -> dict[str, Tensor]:
    """Memory for the tensors of a file, side by side; no page of it is there yet.

    It is given back when none of them is in use any more.
    """
    begins: list[int] = []
    end = 0
    for slot in slots:
        begins.append(end)
        end += -(-(slot.stop - slot.start) // _ALIGNMENT) * _ALIGNMENT
    num_bytes = max(1, -(-end // _HUGE_PAGE_BYTES)) * _HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if not _is_virtual():
        # A kernel without huge pages refuses; then it is slower.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    return {
        slot.name: whole[begin : begin + slot.stop - slot.start]
        .view(TORCH_DTYPES[slot.dtype])
        .view(slot.shape)
        for slot, begin in zip(slots, begins, strict=True)
    }


def make_resident(part: memoryview) -> None:
    """Have the kernel back a part of this memory at once, which is faster than page by page.

    Not ``mmap.madvise``, which keeps other Python threads from running meanwhile.
    """
    if _madvise is None or not part.nbytes:
        return
    address = np.frombuffer(part, np.uint8).ctypes.data
    first = address - address % mmap.PAGESIZE
    # An older kernel refuses; then it is slower.
    _madvise(
        ctypes.c_void_p(first),
        ctypes.c_size_t(address + part.nbytes - first),
        _MADV_POPULATE_WRITE,
    )


def _is_virtual() -> bool:
    """Whether this is a guest, whose host may have to find every huge page that is touched first.

    664 MB on a guest of Firecracker: 0.05 or 0.4 to 0.7 s in huge pages, 0.09 s in small ones.
    """
    return "hypervisor" in processor_flags()
