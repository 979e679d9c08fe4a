"""Score items of tasks in parts, several at a time, to the same bits however many there are.

What is scored together decides how sums are rounded, and so does the number of threads in a sum: a
part is always the same items and is scored by one thread, as ``training.score_units`` does with
text.
"""

import threading
from collections.abc import Callable, Sequence

from training.causal_model import CausalModel
from training.items.item import Item
from training.items.score import ItemScore
from training.items.score_items import score_items
from training.items.tokenizer import ItemTokenizer
from training.one_thread_each import map_one_thread_each


def score_parts(
    model: CausalModel,
    tokenizer: ItemTokenizer,
    parts: Sequence[Sequence[Item]],
    *,
    num_threads: int,
    on_part: Callable[[int, tuple[ItemScore, ...]], None] | None = None,
) -> list[tuple[ItemScore, ...]]:
    """Scores of every item of every part, in their order. Safe to retry: the same bits come out.

    Args:
        model: On any device. On a GPU one part is scored at a time.
        tokenizer: Of the model.
        parts: Each is scored for itself; contexts are shared inside of it.
        num_threads: Parts at a time on the processor; has no influence on the result.
        on_part: Called after each part with its number and scores, from any thread, one call at a
            time.

    Raises:
        ValueError: As ``score_items``.
    """
    mutex = threading.Lock()
    logits_of = model.logits_of_trees()

    def score(number: int) -> tuple[ItemScore, ...]:
        scores = tuple(
            score_items(
                model,
                tokenizer,
                parts[number],
                window_tokens=model.config.max_position_embeddings,
                logits_of=logits_of,
            )
        )
        if on_part is not None:
            with mutex:
                on_part(number, scores)
        return scores

    numbers = range(len(parts))
    if model.device.type != "cpu":
        return [score(number) for number in numbers]
    workers = max(1, min(num_threads, len(parts)))
    return map_one_thread_each(score, numbers, num_threads=workers)
