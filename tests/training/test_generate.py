import pytest
import torch

from training.config import ModelConfig
from training.decoder.model import Decoder
from training.generate import generate

CONFIG = ModelConfig(
    vocab_size=30,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=24,
    initializer_range=0.4,
)
NEVER = -1
PROMPTS = [[0, 4, 9, 3, 3, 8], [0], [0, 21, 7]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model() -> Decoder:
    return Decoder(CONFIG, seed=2)


def test_every_greedy_token_is_the_likeliest_next(model: Decoder) -> None:
    for prompt, new in zip(
        PROMPTS, generate(model, PROMPTS, max_new_tokens=7, end_id=NEVER), strict=True
    ):
        assert len(new) == 7
        logits = model(torch.tensor([prompt + new]))[0]
        assert new == logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()


def test_prompts_of_different_lengths_do_not_disturb_each_other(model: Decoder) -> None:
    together = generate(model, PROMPTS, max_new_tokens=7, end_id=NEVER)
    alone = [generate(model, [p], max_new_tokens=7, end_id=NEVER)[0] for p in PROMPTS]
    assert together == alone


def test_a_continuation_ends_before_the_end_token(model: Decoder) -> None:
    free = generate(model, PROMPTS, max_new_tokens=7, end_id=NEVER)
    end_id = free[0][3]
    ended = generate(model, PROMPTS, max_new_tokens=7, end_id=end_id)
    assert ended == [new[: new.index(end_id)] if end_id in new else new for new in free]
    assert any(len(new) < 7 for new in ended)


def test_draws_follow_the_seed_and_the_distribution(model: Decoder) -> None:
    prompts = [[0, 5]] * 4000

    def draw(seed: int) -> list[int]:
        drawn = generate(model, prompts, max_new_tokens=1, end_id=NEVER, temperature=2.0, seed=seed)
        return [new[0] for new in drawn]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    shares = torch.bincount(torch.tensor(draw(1)), minlength=30) / 4000
    expected = (model(torch.tensor([[0, 5]]))[0, -1] / 2.0).softmax(-1)
    # Five standard deviations of a share of 4000 draws are at most 0.04.
    torch.testing.assert_close(shares, expected.detach(), rtol=0, atol=0.04)


def test_prompts_that_cannot_be_continued_are_refused(model: Decoder) -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(model, [[0], []], max_new_tokens=1, end_id=NEVER)
    with pytest.raises(ValueError, match="temperature must be 0 or above, got -1"):
        generate(model, [[0]], max_new_tokens=1, end_id=NEVER, temperature=-1.0)
    assert generate(model, [], max_new_tokens=1, end_id=NEVER) == []
