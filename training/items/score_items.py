"""What a model makes of items: the one function that a check calls."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

from training.causal_model import CausalModel
from training.items.continuations import ContinuationScore, score_windows
from training.items.item import Item
from training.items.score import ItemScore
from training.items.tokenizer import ItemTokenizer
from training.items.windows import continuations_of, windows_of
from training.items.written import texts_written
from training.trees import LogitsOfTrees

BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
"""Tokens of a forward pass; on a processor what it computes from them stays in its caches.

Two AMD Zen 4 cores, 54M parameters, fp32, multiple choice: 1.85, 1.77, 1.74 and 1.86 s of a
processor for batches of 256, 512, 1,024 and 2,048.
"""


def score_items(
    model: CausalModel,
    tokenizer: ItemTokenizer,
    items: Sequence[Item],
    *,
    window_tokens: int,
    batch_tokens: int | None = None,
    precision: Literal["bf16", "fp32"] = "fp32",
    logits_of: LogitsOfTrees | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ItemScore]:
    """Scores of ``items``, in their order. Safe to retry: the same bits come out.

    The order of the items changes nothing. Other items beside it or another ``batch_tokens`` change
    the nats of an item by less than 1e-5 of them, as sums are then made in another order; an
    answer changes only where two are as likely as each other to that precision.

    Args:
        model: On any device.
        tokenizer: Of the model.
        items: Of any kinds. Contexts are shared among items, so give those of a task together.
        window_tokens: Most tokens that the model reads at once, mostly its configuration's
            ``max_position_embeddings``. See ``training.items.windows`` for what is longer.
        batch_tokens: Tokens of a forward pass, padded; bounds memory; at least one row is taken.
            None: what is quickest on the device.
        precision: ``bf16`` is autocast, as in training. Nats are summed in float64 either way.
        logits_of: ``model.logits_of_trees()`` of an earlier call: to lay weights out takes time and
            memory. None: made for this call.
        on_progress: Called after every batch with about the items done, and all items.

    Raises:
        ValueError: A token is outside the model's vocabulary, or a generation leaves no room in the
            window for its context.
    """
    batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])
    asked = [continuations_of(item) for item in items]
    written = [item for item in items if item.kind == "generation"]
    others = len(items) - len(written)

    def report_read(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(others * done // total, len(items))

    def report_written(done: int) -> None:
        if on_progress is not None:
            on_progress(others + done, len(items))

    windows = windows_of(
        [c for each in asked for c in each], tokenizer, window_tokens=window_tokens
    )
    scores = iter(
        score_windows(
            model,
            windows,
            batch_tokens=batch_tokens,
            precision=precision,
            logits_of=logits_of,
            on_progress=report_read,
        )
    )
    texts = iter(
        texts_written(
            model,
            tokenizer,
            written,
            window_tokens=window_tokens,
            batch_tokens=batch_tokens,
            precision=precision,
            on_progress=report_written,
        )
    )
    return [
        _judged(
            item,
            list(islice(scores, len(each))),
            tokenizer,
            text=next(texts) if item.kind == "generation" else "",
        )
        for item, each in zip(items, asked, strict=True)
    ]


def _judged(
    item: Item, scores: list[ContinuationScore], tokenizer: ItemTokenizer, *, text: str
) -> ItemScore:
    """``text`` is what was written, of a generation."""
    right = scores[0]
    if item.kind == "cloze":
        is_correct, answer = right.is_greedy, tokenizer.decode(right.greedy)
    elif item.kind == "generation":
        is_correct, answer = is_exact_match(item, text), text
    elif item.kind == "perplexity":
        is_correct, answer = False, ""
    else:
        chosen = chosen_of(item, [score.nats for score in scores])
        is_correct, right = chosen == item.gold, scores[item.gold]
        answer = (item.contexts or item.choices)[chosen]
    return ItemScore(
        item=item.id,
        cluster=item.cluster,
        is_correct=is_correct,
        answer=answer,
        nats=right.nats,
        targets=right.targets,
    )


def chosen_of(item: Item, nats: Sequence[float]) -> int:
    """Index of the choice that the rule of ``item`` takes; of several as good, the first.

    Args:
        item: Of the kind ``multiple_choice`` or ``minimal_pair``.
        nats: Of each choice.
    """
    lengths = {
        "choice": [1] * len(item.choices),
        "character": [len(choice) for choice in item.choices],
        "byte": [len(choice.encode()) for choice in item.choices],
    }[item.nats_per]
    losses = [each / length for each, length in zip(nats, lengths, strict=True)]
    return losses.index(min(losses))


def is_exact_match(item: Item, text: str) -> bool:
    """Whether ``text`` is one of the choices, but for whitespace around it."""
    return text.strip() in {choice.strip() for choice in item.choices}
