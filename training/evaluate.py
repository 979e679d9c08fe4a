"""Score a model on documents: the nats of every target of every held-out document.

Documents are packed several to a row, each in a segment of its own, so that little is padded;
attention never crosses segments, so a score does not depend on the neighbours. The packing is a
function of the documents alone, so scoring twice gives the same bits.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from training.causal_model import CausalModel
from training.cross_entropy import IGNORE_INDEX
from training.data.holdout import DocumentScore, HoldoutDocument

_PADDING_SEGMENT = -1


class _Piece(NamedTuple):
    """Consecutive inputs of one document that fit into a row."""

    document: int
    start: int
    length: int


def score_documents(
    model: CausalModel,
    documents: Sequence[HoldoutDocument],
    *,
    start_id: int,
    end_id: int,
    seq_len: int,
    micro_batch_tokens: int = 8192,
    precision: Literal["bf16", "fp32"] = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[DocumentScore]:
    """Score ``documents``, in their order. Safe to retry: the same bits come out.

    A document of more than ``seq_len`` targets is cut into windows of ``seq_len`` inputs that
    overlap by one token, as training cuts its rows, so that every token but the first is a target
    once.

    Args:
        model: On any device; must compute one token from the tokens before it in the segment.
        documents: Rows of a holdout.
        start_id: First token of every document.
        end_id: Last token of every document.
        seq_len: Inputs a row.
        micro_batch_tokens: Inputs a forward pass, bounds memory; at least one row is taken.
        precision: ``bf16`` is autocast, as in training. Nats are summed in float64 either way.
        on_progress: Called after every forward pass with the targets done and all targets.

    Raises:
        ValueError: A document is not framed by ``start_id`` and ``end_id``, or holds a token
            outside the vocabulary.
    """
    _check_framing(documents, start_id=start_id, end_id=end_id, vocab_size=model.config.vocab_size)
    rows = _pack(_cut(documents, seq_len), seq_len)
    rows_per_pass = max(1, micro_batch_tokens // seq_len)
    nats = np.zeros(len(documents), dtype=np.float64)
    total = sum(piece.length for row in rows for piece in row)
    done = 0
    for first in range(0, len(rows), rows_per_pass):
        batch = rows[first : first + rows_per_pass]
        nats += _score_rows(model, documents, batch, precision=precision)
        done += sum(piece.length for row in batch for piece in row)
        if on_progress is not None:
            on_progress(done, total)
    return [
        DocumentScore(
            document=document.document,
            cluster=document.cluster,
            nats=float(sum_of_nats),
            targets=len(document.tokens) - 1,
            text_bytes=document.text_bytes,
        )
        for document, sum_of_nats in zip(documents, nats, strict=True)
    ]


def unigram_nats(
    counts: npt.NDArray[np.int64], documents: Sequence[HoldoutDocument]
) -> list[float]:
    """Nats of each document under the unigram model of the training ``counts``, ``int64[V]``.

    Smoothed by adding one. It knows frequencies alone and no context: the least that a first
    version must beat.
    """
    smoothed = counts.astype(np.float64) + 1.0
    nats_V = np.log(smoothed.sum()) - np.log(smoothed)
    return [float(nats_V[document.tokens[1:].astype(np.int64)].sum()) for document in documents]


def _check_framing(
    documents: Sequence[HoldoutDocument], *, start_id: int, end_id: int, vocab_size: int
) -> None:
    for document in documents:
        tokens = document.tokens
        if len(tokens) < 2 or tokens[0] != start_id or tokens[-1] != end_id:
            raise ValueError(
                f"document {document.document} must open with token {start_id} and end with "
                f"{end_id}, found {len(tokens)} tokens {tokens[:1].tolist()} ... "
                f"{tokens[-1:].tolist()}; was the holdout written with another tokenizer?"
            )
        if int(tokens.max()) >= vocab_size:
            raise ValueError(
                f"document {document.document} holds token {int(tokens.max())}, the model's "
                f"vocabulary ends at {vocab_size - 1}; model and holdout must share a tokenizer"
            )


def _cut(documents: Sequence[HoldoutDocument], seq_len: int) -> Iterator[_Piece]:
    for number, document in enumerate(documents):
        num_targets = len(document.tokens) - 1
        for start in range(0, num_targets, seq_len):
            yield _Piece(number, start, min(seq_len, num_targets - start))


def _pack(pieces: Iterator[_Piece], seq_len: int) -> list[list[_Piece]]:
    """Best fit, longest first: rows of at most ``seq_len`` inputs, nearly all of them full."""
    rows: list[list[_Piece]] = []
    room: list[tuple[int, int]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.length, piece.document, piece.start)):
        at = bisect.bisect_left(room, (piece.length, 0))
        if at == len(room):
            rows.append([piece])
            bisect.insort(room, (seq_len - piece.length, len(rows) - 1))
        else:
            left, row = room.pop(at)
            rows[row].append(piece)
            bisect.insort(room, (left - piece.length, row))
    return rows


@torch.inference_mode()
def _score_rows(
    model: CausalModel,
    documents: Sequence[HoldoutDocument],
    rows: list[list[_Piece]],
    *,
    precision: Literal["bf16", "fp32"],
) -> npt.NDArray[np.float64]:
    """Nats that ``rows`` add to each document, ``float64[len(documents)]``."""
    width = max(sum(piece.length for piece in row) for row in rows)
    inputs_BT = np.zeros((len(rows), width), dtype=np.int64)
    targets_BT = np.full_like(inputs_BT, IGNORE_INDEX)
    segments_BT = np.full_like(inputs_BT, _PADDING_SEGMENT)
    owners_BT = np.zeros_like(inputs_BT)
    for b, row in enumerate(rows):
        end = 0
        for segment, (number, start, length) in enumerate(row):
            where = slice(end, end + length)
            tokens = documents[number].tokens
            inputs_BT[b, where] = tokens[start : start + length]
            targets_BT[b, where] = tokens[start + 1 : start + length + 1]
            segments_BT[b, where] = segment
            owners_BT[b, where] = number
            end += length
    device = model.device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with autocast:
        nats_N = model.nats_of_targets(
            torch.from_numpy(inputs_BT).to(device),
            torch.from_numpy(segments_BT).to(device),
            torch.from_numpy(targets_BT).to(device),
        )
    # Ignored targets have 0 nats, so that padding may count for document 0.
    nats = nats_N.double().cpu().numpy()
    sums = np.bincount(owners_BT.ravel(), weights=nats, minlength=len(documents))
    return sums.astype(np.float64, copy=False)
