"""A part's answers depend on the model and on its items alone."""

import pytest
import torch

from tests.training.families import config_of
from tests.training.items.pieces import PIECES, PieceTokenizer
from training.decoder.model import Decoder
from training.items.item import Item
from training.items.score import ItemScore
from training.items.score_parts import score_parts

PARTS = [
    [
        Item(
            id=f"i{part}-{n}",
            cluster="c",
            kind="multiple_choice",
            context="abc" * n,
            choices=("d", "ef g", "h" * (part + 1)),
        )
        for n in range(5)
    ]
    for part in range(7)
]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_any_number_of_threads_gives_the_same_bits_and_tells_of_every_part(
    num_threads: int,
) -> None:
    model = Decoder(config_of("llama gqa tied", vocab_size=len(PIECES)), seed=1)
    own_threads = torch.get_num_threads()
    told: dict[int, tuple[ItemScore, ...]] = {}
    scores = score_parts(
        model, PieceTokenizer(), PARTS, num_threads=num_threads, on_part=told.__setitem__
    )
    alone = [
        score_parts(model, PieceTokenizer(), [part], num_threads=1)[0] for part in reversed(PARTS)
    ]
    assert scores == alone[::-1]
    assert [told[number] for number in range(len(PARTS))] == scores
    assert torch.get_num_threads() == own_threads
