"""Kept memory of the host that a training state is copied into."""

import contextlib
from collections.abc import Callable, Generator, Mapping

import numpy as np
import torch
from torch import Tensor

from training.decoder.sharding import is_in_pieces, whole_of


class HostBuffers:
    """Memory of the host for one state, allocated once; pinned when the state is on a GPU."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Tensor]] = {}
        """What was copied last, by part and name."""
        self._stream: torch.cuda.Stream | None = None

    def prepare(self, parts: Mapping[str, Mapping[str, Tensor]]) -> Callable[[], None]:
        """A function that copies ``parts`` in; it may run in another thread.

        What the current stream of a GPU has been asked to do before is waited for. Tensors that the
        ranks share are gathered and copied now, one after the other, as exchanges of two threads
        could cross: the other ranks call ``whole_of`` for each as well.
        """
        device = next((t.device for part in parts.values() for t in part.values()), None)
        is_cuda = device is not None and device.type == "cuda"
        if any(is_in_pieces(tensor) for part in parts.values() for tensor in part.values()):
            self._fill(parts)
            if is_cuda:
                torch.cuda.current_stream(device).synchronize()
            return lambda: None
        if is_cuda and self._stream is None:
            self._stream = torch.cuda.Stream(device)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        return lambda: self._fill(parts)

    def _fill(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        with torch.no_grad(), self._on_stream():
            for name, part in parts.items():
                old = self.parts.get(name, {})
                self.parts[name] = {key: _copied(old.get(key), part[key]) for key in part}
        if self._stream is not None:
            self._stream.synchronize()

    @contextlib.contextmanager
    def _on_stream(self) -> Generator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield


def _copied(kept: Tensor | None, source: Tensor) -> Tensor:
    """``source`` in ``kept``, or in new memory when that does not fit."""
    source = whole_of(source.detach())
    if kept is None or (kept.shape, kept.dtype) != (source.shape, source.dtype):
        kept = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
    if source.device.type == "cpu" and source.is_contiguous():
        # Not copy_: that starts as many threads as the training has, on processors that it uses.
        np.copyto(_numbers(kept), _numbers(source))
    else:
        kept.copy_(source, non_blocking=True)
    return kept


def _numbers(tensor: Tensor) -> np.ndarray:
    """A tensor's memory; numpy knows no bfloat16."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
