"""Record exposure: which document an update saw how often, from the order it was trained in.

The order of samples is a pure function of the plan, so nothing has to be counted while training.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.layout import Layout
from storage.ledger import LedgerRow, write_ledger
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, read_snapshot
from tasks.update_plan import load_plan
from training.config import Stream, TrainPlan
from training.data.order import Order
from training.guard.skips import Skips, read_skips

logger = logging.getLogger(__name__)

_STEPS_AT_ONCE = 256


def record_exposures(
    store: ObjectStore, layout: Layout, plan: TrainPlan, *, work_dir: Path
) -> None:
    """Write the ledger of a finished update. Safe to retry: the same plan gives the same rows.

    Batches that were passed over are not in it: nothing was learned from them. What an update that
    was taken over had trained until then is, unless a published version's ledger has it already.
    """
    drawn: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
    slices: dict[tuple[str, str], Stream] = {}
    for part, end_step in _parts(store, layout, plan):
        counts = draws_by_row(part, read_skips(store, part), end_step)
        for stream, draws in zip(part.mixture.streams, counts, strict=True):
            name = (stream.snapshot, stream.domain)
            slices[name] = stream
            drawn[name] = drawn[name] + draws if name in drawn else draws
    rows: list[LedgerRow] = []
    for name, stream in slices.items():
        rows += _exposures(store, layout, stream, drawn[name], plan.seq_len, work_dir)
    write_ledger(store, layout, plan.update, rows)
    seen = sum(row.tokens for row in rows)
    logger.info(f"ledger: {len(rows):,} documents seen by update {plan.update}, {seen:,} tokens")


def draws_by_row(
    plan: TrainPlan, skips: Skips, end_step: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """How often each training sample was learned from, ``int64[available]`` a stream.

    Args:
        plan: Its own steps are counted, not those of an update that it has taken over.
        skips: Its batches that were passed over.
        end_step: Steps that were taken, those before ``plan.first_step`` included; None: all.
    """
    end_step = plan.num_steps if end_step is None else end_step
    order = Order(plan.mixture, plan.global_batch_samples)
    drawn = [np.zeros(stream.available, np.int64) for stream in plan.mixture.streams]
    passed_over = set(skips.steps_before(end_step))
    learned = [step for step in range(plan.first_step, end_step) if step not in passed_over]
    for first in range(0, len(learned), _STEPS_AT_ONCE):
        pairs = [order.step(step) for step in learned[first : first + _STEPS_AT_ONCE]]
        streams = np.concatenate([pair[0] for pair in pairs])
        samples = np.concatenate([pair[1] for pair in pairs])
        for index, counts in enumerate(drawn):
            counts += np.bincount(samples[streams == index], minlength=len(counts))
    return drawn


def _parts(store: ObjectStore, layout: Layout, plan: TrainPlan) -> Iterator[tuple[TrainPlan, int]]:
    """The plan and those that it goes on from, each with the steps that were taken of it."""
    end_step = plan.num_steps
    while True:
        yield plan, end_step
        origin = plan.taken_over
        if origin is None or origin.is_published:
            return
        plan, end_step = load_plan(store, layout, origin.update).train, origin.step


def tokens_seen(
    draws: npt.NDArray[np.int64],
    seq_len: int,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Tokens seen of spans of a stream whose rows were drawn ``draws`` times, ``int64[spans]``.

    Row ``k`` covers the positions ``[k * seq_len, (k + 1) * seq_len)``.

    Args:
        draws: Times each row was drawn, ``int64[rows]``.
        seq_len: Inputs a row.
        starts: First position of each span, ``int64[spans]``.
        lengths: Positions of each span, ``int64[spans]``.
    """
    before_row = np.concatenate([[0], np.cumsum(draws) * seq_len])
    padded = np.append(draws, 0)

    def seen_before(position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        row = np.minimum(position // seq_len, len(draws))
        return before_row[row] + padded[row] * (position - row * seq_len)

    return seen_before(starts + lengths) - seen_before(starts)


def _exposures(
    store: ObjectStore,
    layout: Layout,
    stream: Stream,
    draws: npt.NDArray[np.int64],
    seq_len: int,
    work_dir: Path,
) -> list[LedgerRow]:
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    snapshot = read_snapshot(store, layout, stream.snapshot)
    table_file = file_named(snapshot.files, DOCUMENTS, f"snapshot {snapshot.id}")
    prefix = layout.snapshot(stream.snapshot)
    path = fetch_verified(
        store, prefix, table_file, work_dir / "documents" / f"{stream.snapshot}.parquet"
    )
    table = pq.read_table(
        path,
        columns=["document", "first_token", "tokens"],
        filters=[("domain", "=", stream.domain), ("split", "=", "train")],
    )
    starts = table["first_token"].to_numpy()
    lengths = table["tokens"].to_numpy()
    tokens = tokens_seen(draws, seq_len, starts, lengths)
    names = table["document"].to_pylist()
    return [
        LedgerRow(
            snapshot=stream.snapshot,
            domain=stream.domain,
            document=names[index],
            # A document that was seen in part counts as seen.
            exposures=int(-(-tokens[index] // lengths[index])),
            tokens=int(tokens[index]),
        )
        for index in np.flatnonzero(tokens)
    ]
