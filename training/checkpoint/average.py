"""The weighted mean of stored checkpoints, piece by piece: one model and a few pieces in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.errors import CorruptError
from storage.objects import ObjectStore
from training.checkpoint.fresh_memory import TORCH_DTYPES
from training.checkpoint.index import read_manifest
from training.checkpoint.pieces import (
    Piece,
    Slot,
    TensorFile,
    check_piece,
    check_root,
    in_threads,
    open_header,
    quick_digest,
)
from training.checkpoint.tensors import bytes_of


def average_weights(
    store: ObjectStore, checkpoints: Sequence[str], shares: Sequence[float]
) -> dict[str, Tensor]:
    """The mean of the checkpoints' weights by parameter name, every byte read verified.

    Summed in float64 in the order given and rounded once, to the precision that they are stored
    in, so the same checkpoints give the same bits on every machine. What is no floating-point
    number is that of the last checkpoint.

    Args:
        store: Where they lie.
        checkpoints: Prefixes, of one run.
        shares: Of each; their sum is 1.

    Raises:
        NotFoundError: A checkpoint is not there.
        CorruptError: One is altered, or is none of the same model; names it.
    """
    sources = [_open(store, checkpoint) for checkpoint in checkpoints]
    last = sources[-1]
    for source in sources:
        if [slot[1:3] for slot in source.slots] != [slot[1:3] for slot in last.slots]:
            raise CorruptError(
                f"{source.key} does not have the tensors of {last.key}, with which it is averaged; "
                "average checkpoints of one run"
            )
    averaged = {
        slot.name: torch.empty(slot.shape, dtype=TORCH_DTYPES[slot.dtype]) for slot in last.slots
    }
    slots = {slot.name: slot for slot in last.slots}

    def fill(index: int) -> None:
        piece = last.pieces[index]
        slot = slots[piece.tensor]
        whole = bytes_of(averaged[piece.tensor])
        part = whole[piece.start - slot.start : piece.stop - slot.start]
        part[:] = bytes_of(_mean(sources, shares, index, averaged[piece.tensor].dtype))

    in_threads(fill, range(1, len(last.pieces)))
    return averaged


@dataclass(frozen=True, slots=True)
class _Source:
    """The weights of one checkpoint, to be read in pieces."""

    store: ObjectStore
    key: str
    file: TensorFile
    slots: list[Slot]
    pieces: list[Piece]

    def read(self, index: int, dtype: torch.dtype) -> Tensor:
        """One piece, verified."""
        piece = self.pieces[index]
        body = bytearray(self.store.get(self.key, start=piece.start, length=_length(piece)))
        digest = quick_digest(self.file)
        digest.update(body)
        check_piece(self.key, self.file, index, piece, digest)
        return torch.frombuffer(body, dtype=dtype)


def _length(piece: Piece) -> int:
    return piece.stop - piece.start


def _open(store: ObjectStore, checkpoint: str) -> _Source:
    file = read_manifest(store, checkpoint).weights
    key = f"{checkpoint}/{file.name}"
    check_root(key, file)
    slots, pieces = open_header(
        file, key, lambda start, length: store.get(key, start=start, length=length)
    )
    return _Source(store, key, file, slots, pieces)


def _mean(
    sources: Sequence[_Source], shares: Sequence[float], index: int, dtype: torch.dtype
) -> Tensor:
    """Of one piece."""
    if not dtype.is_floating_point:
        return sources[-1].read(index, dtype)
    total: Tensor | None = None
    for source, share in zip(sources, shares, strict=True):
        weighted = source.read(index, dtype).double() * share
        total = weighted if total is None else total.add_(weighted)
    assert total is not None
    return total.to(dtype)
