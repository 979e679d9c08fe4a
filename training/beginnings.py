"""What a model makes of the beginnings of texts, each by itself: to the same bits in any company.

A text is a row of its own, never padded, computed by one thread in float32: neither its neighbours
nor the number of threads change how a sum is rounded. For many texts of which little is read;
held-out documents are scored by ``training.evaluate``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training.causal_model import CausalModel
from training.one_thread_each import map_one_thread_each
from training.tokenizer import Tokenizer

_CHARACTERS_A_TOKEN = 16
"""Of a text no more is encoded than so many for each token that is wanted."""


class Beginning(NamedTuple):
    """The first tokens of a text."""

    tokens: NDArray[np.int64]
    """``int64[n]``, without framing; none of a text without any."""
    text_bytes: int
    """Of UTF-8, of the text that they stand for."""


def beginnings_of(
    tokenizer: Tokenizer, texts: Sequence[str], *, most_tokens: int
) -> list[Beginning]:
    """The first ``most_tokens`` tokens of each text, or all that it has.

    Of a text of more than 16 characters a token, such as one of white space, the first so many
    characters count.
    """
    heads = [text[: most_tokens * _CHARACTERS_A_TOKEN] for text in texts]
    encodings = tokenizer.encoder.encode_batch(heads, add_special_tokens=False)
    found: list[Beginning] = []
    for head, encoding in zip(heads, encodings, strict=True):
        is_cut = len(encoding.ids) > most_tokens
        end = encoding.offsets[most_tokens - 1][1] if is_cut else len(head)
        tokens = np.array(encoding.ids[:most_tokens], np.int64)
        found.append(Beginning(tokens, len(head[:end].encode())))
    return found


def nats_of_beginnings(
    model: CausalModel, beginnings: Sequence[Beginning], *, start_id: int, num_threads: int
) -> list[float]:
    """Nats of all tokens of each beginning after the start token, summed in float64.

    Args:
        model: On the processor.
        beginnings: Of at most ``max_position_embeddings`` tokens each.
        start_id: Token that opens every document.
        num_threads: Beginnings at a time; has no influence on the result.

    Raises:
        ValueError: A token is outside the model's vocabulary.
    """
    largest = max((int(each.tokens.max(initial=0)) for each in beginnings), default=0)
    if max(start_id, largest) >= model.config.vocab_size:
        raise ValueError(
            f"expected tokens below {model.config.vocab_size}, the model's vocabulary, found "
            f"{max(start_id, largest)}: model and tokenizer must belong together"
        )

    @torch.inference_mode()
    def score(beginning: Beginning) -> float:
        if not len(beginning.tokens):
            return 0.0
        targets_BT = torch.from_numpy(beginning.tokens)[None]
        inputs_BT = torch.cat((torch.full((1, 1), start_id), targets_BT[:, :-1]), dim=1)
        segments_BT = torch.zeros_like(inputs_BT)
        return float(model.nats_of_targets(inputs_BT, segments_BT, targets_BT).double().sum())

    return map_one_thread_each(score, beginnings, num_threads=max(1, num_threads))
