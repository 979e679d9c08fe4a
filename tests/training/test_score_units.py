"""Units give the same bits whatever else is scored, and by however many threads."""

from typing import Any

import numpy as np
import pytest
import torch

from training.config import ModelConfig
from training.data.holdout import HoldoutDocument
from training.data.holdout_folder import HoldoutFolder
from training.decoder.model import Decoder
from training.score_units import Framed, score_units

CONFIG = ModelConfig(
    vocab_size=128,
    hidden_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    initializer_range=0.3,
)
FOLDER = HoldoutFolder(
    prefix="snapshots/a",
    folder="web/holdout",
    files=(),
    token_dtype="uint16",
    start_id=0,
    end_id=1,
    seq_len=64,
)


def unit(number: int) -> Framed:
    """Documents of one to several rows."""
    rng = np.random.default_rng(number)
    documents = [
        HoldoutDocument(
            document=f"{number}-{n}",
            cluster=f"{number}-{n // 3}",
            tokens=np.array([0, *rng.integers(2, 128, rng.integers(3, 150)), 1], np.uint16),
            text_bytes=100,
        )
        for n in range(9)
    ]
    return FOLDER, documents


@pytest.fixture(scope="module")
def model() -> Decoder:
    return Decoder(CONFIG)


UNITS = [unit(number) for number in range(7)]


def scored(model: Decoder, units: list[Any], num_threads: int) -> list[tuple[float, ...]]:
    return score_units(model, units, num_threads=num_threads)


def test_scores_are_the_same_bits_by_any_number_of_threads(model: Decoder) -> None:
    alone = scored(model, UNITS, 1)
    assert all(np.isfinite(nats).all() for nats in alone)
    for num_threads in (2, 3, 16):
        assert scored(model, UNITS, num_threads) == alone


def test_scores_are_the_same_bits_whatever_else_is_scored(model: Decoder) -> None:
    whole = scored(model, UNITS, 2)
    assert [nats for one in UNITS for nats in scored(model, [one], 1)] == whole
    assert scored(model, UNITS[::-2], 3) == whole[::-2]


def test_the_process_keeps_its_number_of_threads(model: Decoder) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    scored(model, UNITS[:2], 2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_progress_is_told_unit_by_unit(model: Decoder) -> None:
    told: list[int] = []
    score_units(model, UNITS, num_threads=3, on_tokens=told.append)
    targets = [sum(len(row.tokens) - 1 for row in documents) for _, documents in UNITS]
    assert sorted(told) == sorted(targets)
