import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import ModelConfig
from training.data.holdout import HoldoutDocument
from training.decoder.model import Decoder
from training.evaluate import score_documents, unigram_nats

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=24,
    initializer_range=0.3,
)
START, END = 0, 1


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def document(number: int, length: int) -> HoldoutDocument:
    words = np.random.default_rng([number, length]).integers(2, 50, size=length - 2)
    tokens = np.array([START, *words, END], dtype=np.uint16)
    return HoldoutDocument(f"d{number}", f"c{number // 2}", tokens, 3 * length)


def score(documents: list[HoldoutDocument], **changes: Any) -> list[float]:
    arguments: dict[str, Any] = {"start_id": START, "end_id": END, "seq_len": 24}
    scores = score_documents(Decoder(CONFIG), documents, **(arguments | changes))
    assert [s.document for s in scores] == [d.document for d in documents]
    assert [s.cluster for s in scores] == [d.cluster for d in documents]
    assert [s.targets for s in scores] == [len(d.tokens) - 1 for d in documents]
    assert [s.text_bytes for s in scores] == [d.text_bytes for d in documents]
    return [s.nats for s in scores]


def nats_alone(found: HoldoutDocument, seq_len: int) -> float:
    """Window after window, without packing, masks or chunks."""
    model = Decoder(CONFIG)
    tokens = torch.from_numpy(found.tokens.astype(np.int64))
    nats = 0.0
    for start in range(0, len(tokens) - 1, seq_len):
        window = tokens[start : start + seq_len + 1]
        logits = model(window[None, :-1])[0].double()
        nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
    return nats


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 70), min_size=1, max_size=12), st.integers(1, 200))
def test_a_score_is_that_of_the_document_alone(lengths: list[int], micro_batch: int) -> None:
    documents = [document(number, length) for number, length in enumerate(lengths)]
    nats = score(documents, micro_batch_tokens=micro_batch)
    assert nats == pytest.approx([nats_alone(d, 24) for d in documents], rel=1e-5)


def test_scores_do_not_depend_on_the_neighbours() -> None:
    documents = [document(number, 5 + 7 * number) for number in range(12)]
    whole = score(documents)
    reversed_nats = score(documents[::-1])[::-1]
    half = score(documents[::2])
    assert reversed_nats == pytest.approx(whole, rel=1e-6)
    assert half == pytest.approx(whole[::2], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scoring_again_gives_the_same_bits(precision: str) -> None:
    documents = [document(number, 5 + 7 * number) for number in range(12)]
    assert score(documents, precision=precision) == score(documents, precision=precision)


def test_bf16_scores_are_close_to_fp32_scores() -> None:
    documents = [document(number, 40 + number) for number in range(6)]
    exact, rounded = score(documents), score(documents, precision="bf16")
    # bf16 keeps 8 bits: 0.4 % a product, averaged over 40 targets.
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert rounded != exact


def test_little_is_padded() -> None:
    documents = [document(number, 3 + number % 20) for number in range(200)]
    passes: list[tuple[int, int]] = []
    score(documents, micro_batch_tokens=24, on_progress=lambda done, of: passes.append((done, of)))
    total = sum(len(d.tokens) - 1 for d in documents)

    assert passes[-1] == (total, total)
    assert [done for done, _ in passes] == sorted({done for done, _ in passes})
    # A pass is one row of 24 here.
    assert len(passes) <= math.ceil(total / 24) + 1


def test_no_documents_have_no_scores() -> None:
    assert score([]) == []


def test_a_document_of_another_tokenizer_is_refused() -> None:
    unframed = HoldoutDocument("d7", "c", np.array([5, 6, END]), 2)
    with pytest.raises(ValueError, match=r"document d7 must open with token 0 and end with 1"):
        score([unframed])
    foreign = HoldoutDocument("d8", "c", np.array([START, 50, END]), 2)
    with pytest.raises(ValueError, match=r"document d8 holds token 50.*ends at 49"):
        score([foreign])


def test_unigram_nats_are_those_computed_by_hand() -> None:
    counts = np.array([3, 0, 1, 0], dtype=np.int64)
    found = HoldoutDocument("d", "c", np.array([0, 2, 3, 1], dtype=np.uint16), 2)
    assert unigram_nats(counts, [found]) == pytest.approx(
        [-math.log(2 / 8) - math.log(1 / 8) - math.log(1 / 8)]
    )
