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


def score_items(
    model: CausalModel,
    tokenizer: ItemTokenizer,
    items: Sequence[Item],
    *,
    window_tokens: int,
    batch_tokens: int = 4096,
    precision: Literal["bf16", "fp32"] = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ItemScore]:
    """Scores of ``items``, in their order, which changes nothing. Safe to retry: the same bits.

    Another order or ``batch_tokens`` changes nats in their last bits (1e-5 of them at most), as
    sums are made in another order; a choice only where two are as likely as each other to that
    precision.

    Args:
        model: On any device.
        tokenizer: Of the model.
        items: Of any kinds; those that share a context are best scored together.
        window_tokens: Most tokens that the model reads at once, mostly its configuration's
            ``max_position_embeddings``. See ``training.items.windows`` for what is longer.
        batch_tokens: Tokens a forward pass, bounds memory; at least one row is taken.
        precision: ``bf16`` is autocast, as in training. Nats are summed in float64 either way.
        on_progress: Called after every forward pass with the tokens done and all tokens.

    Raises:
        ValueError: A token is outside the model's vocabulary; a generation leaves no room in the
            window for its context.
    """
    asked = [continuations_of(item) for item in items]
    windows = windows_of(
        [c for each in asked for c in each], tokenizer, window_tokens=window_tokens
    )
    scores = iter(
        score_windows(
            model,
            windows,
            batch_tokens=batch_tokens,
            precision=precision,
            on_progress=on_progress,
        )
    )
    return [
        _judged(item, list(islice(scores, len(each))), tokenizer)
        for item, each in zip(items, asked, strict=True)
    ]


def _judged(item: Item, scores: list[ContinuationScore], tokenizer: ItemTokenizer) -> ItemScore:
    if item.kind == "cloze":
        is_correct, right = scores[0].is_greedy, scores[0]
        answer = tokenizer.decode(scores[0].greedy)
    elif item.kind == "perplexity":
        is_correct, right, answer = False, scores[0], ""
    else:
        chosen = chosen_of(item, scores)
        is_correct, right, answer = chosen == item.gold, scores[item.gold], item.choices[chosen]
    return ItemScore(
        item=item.id,
        cluster=item.cluster,
        is_correct=is_correct,
        answer=answer,
        nats=right.nats,
        targets=right.targets,
    )


def chosen_of(item: Item, scores: Sequence[ContinuationScore]) -> int:
    """Index of the choice that the rule of ``item`` takes; of several as good, the first."""
    lengths = {
        "choice": [1] * len(item.choices),
        "character": [len(choice) for choice in item.choices],
        "byte": [len(choice.encode()) for choice in item.choices],
    }[item.nats_per]
    losses = [score.nats / length for score, length in zip(scores, lengths, strict=True)]
    return losses.index(min(losses))
