"""Score units of held-out documents, several at a time, to the same bits however many there are.

A unit is scored by one thread: how a sum is split over threads decides how it is rounded. What
would be gained by more threads in a unit is gained by more units at once.
"""

import threading
from collections.abc import Callable, Sequence

from training.causal_model import CausalModel
from training.data.holdout import HoldoutDocument
from training.data.holdout_folder import HoldoutFolder
from training.evaluate import score_documents
from training.one_thread_each import map_one_thread_each

Framed = tuple[HoldoutFolder, Sequence[HoldoutDocument]]
"""A unit's documents, with the folder that says how they are framed."""


def score_units(
    model: CausalModel,
    units: Sequence[Framed],
    *,
    num_threads: int,
    on_tokens: Callable[[int], None] | None = None,
) -> list[tuple[float, ...]]:
    """Nats of every document of every unit, in their order. Safe to retry: the same bits come out.

    Args:
        model: On any device. On a GPU one unit is scored at a time.
        units: Each is scored for itself.
        num_threads: Units at a time on the processor; has no influence on the result.
        on_tokens: Called after each unit with its targets, from any thread, one call at a time.

    Raises:
        ValueError: A document is not framed as its folder says, or holds a token outside the
            vocabulary.
    """
    mutex = threading.Lock()

    def score(unit: Framed) -> tuple[float, ...]:
        folder, documents = unit
        scores = score_documents(
            model,
            documents,
            start_id=folder.start_id,
            end_id=folder.end_id,
            seq_len=folder.seq_len,
        )
        if on_tokens is not None:
            with mutex:
                on_tokens(sum(row.targets for row in scores))
        return tuple(row.nats for row in scores)

    if model.device.type != "cpu":
        return [score(unit) for unit in units]
    workers = max(1, min(num_threads, len(units)))
    return map_one_thread_each(score, units, num_threads=workers)
