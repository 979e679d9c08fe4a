"""The loss of packed documents: which targets count, and their nats by stream.

Shapes: B samples of a micro batch, T inputs of a sample, C width, V vocabulary, S streams.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.causal_model import CausalModel
from training.cross_entropy import IGNORE_INDEX
from training.decoder.attention import segments_of


def targets_of(tokens: Tensor, *, start_id: int, end_id: int) -> Tensor:
    """What each input of ``tokens`` (``int64[B, T + 1]``) must predict, ``int64[B, T]``.

    A document's first token cannot be predicted from the document before, and padding teaches
    nothing: both are ``IGNORE_INDEX``. Where documents are only separated (``start_id == end_id``),
    the first separator after a document is its end of text and counts.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    ignored = targets == start_id
    if start_id == end_id:
        ignored &= inputs == start_id
    return targets.masked_fill(ignored, IGNORE_INDEX)


def count_by_stream(targets: Tensor, streams: Tensor, num_streams: int) -> Tensor:
    """Valid targets of each stream, ``int64[S]``; ``streams`` (``int64[B]``): whose row it is."""
    valid = (targets != IGNORE_INDEX).sum(1)
    return torch.zeros(num_streams, dtype=torch.int64, device=valid.device).index_add_(
        0, streams, valid
    )


class StreamLoss(nn.Module):
    """A model whose forward pass is the loss, so that data parallelism wraps both at once."""

    def __init__(self, decoder: CausalModel, *, start_id: int, num_streams: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.start_id = start_id
        self.num_streams = num_streams

    def forward(self, inputs: Tensor, targets: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        """Summed nats, a float32 scalar with gradients, and those of each stream, ``float64[S]``.

        Args:
            inputs: ``int64[B, T]``.
            targets: ``int64[B, T]``, ``IGNORE_INDEX`` where nothing is learned.
            streams: ``int64[B]``, the stream of each row.
        """
        segments = segments_of(inputs, self.start_id)
        total, nats_N = self.decoder.summed_nats(inputs, segments, targets)
        nats_B = nats_N.view(targets.shape).sum(1, dtype=torch.float64)
        # Not index_add, whose order of summation is left to chance on a GPU.
        return total, nats_B @ F.one_hot(streams, self.num_streams).double()
