from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.foreign_models import foreign_directory
from tests.training.families import FAMILIES, config_of, scrambled
from tests.training.items.pieces import PIECES, PieceTokenizer
from training.causal_model import CausalModel
from training.foreign.files import load_foreign
from training.generate import generate
from training.items.item import Item
from training.items.score_items import is_exact_match, score_items
from training.items.windows import prompts_of

TOKENIZER = PieceTokenizer()
CONTEXTS = ("abcd efgh abc", "", "ab ", "h g f e d c b a", "cd")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def item(context: str, **changes: Any) -> Item:
    fields: dict[str, Any] = {"stop": (), "max_new_tokens": 12, "choices": ("a",)}
    return Item(id="i", cluster="c", kind="generation", context=context, **(fields | changes))


def written(model: CausalModel, items: list[Item], **about: Any) -> list[str]:
    about = {"window_tokens": 40} | about
    return [score.answer for score in score_items(model, TOKENIZER, items, **about)]


def read_again_each_time(model: CausalModel, context: str, *, window: int = 40) -> str:
    """The likeliest token, over and over, without a cache."""
    (tokens,) = prompts_of([context], TOKENIZER, most_tokens=window - 12)
    prompt = len(tokens)
    for _ in range(12):
        with torch.no_grad():
            token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token == TOKENIZER.end_id:
            break
        tokens.append(token)
    return TOKENIZER.decode(tokens[prompt:])


@pytest.mark.parametrize("variant", FAMILIES)
def test_the_native_families_write_the_likeliest_tokens(variant: str) -> None:
    model = scrambled(config_of(variant, vocab_size=len(PIECES)))
    expected = [read_again_each_time(model, context) for context in CONTEXTS]
    assert written(model, [item(context) for context in CONTEXTS]) == expected
    assert written(model, [item(context) for context in CONTEXTS], batch_tokens=1) == expected


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "bloom"])
def test_families_of_transformers_do_too(family: str, tmp_path: Path) -> None:
    model = load_foreign(foreign_directory(tmp_path, family, vocab_size=len(PIECES)))
    expected = [read_again_each_time(model, context) for context in CONTEXTS]
    assert written(model, [item(context) for context in CONTEXTS]) == expected


def test_a_text_ends_before_the_first_of_its_stops() -> None:
    model = scrambled(config_of("qwen3", vocab_size=len(PIECES)))
    free = written(model, [item("abcd")])[0]
    assert len(free) > 4
    stop = free[3:5]
    ended = written(model, [item("abcd", stop=("no such text", stop)), item("abcd", stop=(stop,))])
    assert ended == [free[: free.index(stop)]] * 2


def test_rows_that_end_leave_the_others_alone() -> None:
    model = scrambled(config_of("llama gqa tied", vocab_size=len(PIECES)))
    prompts = prompts_of(CONTEXTS, TOKENIZER, most_tokens=20)
    free = generate(model, prompts, max_new_tokens=12, end_id=-1)
    cut = generate(
        model,
        prompts,
        max_new_tokens=12,
        end_id=-1,
        is_complete=lambda tokens: len(tokens) == 2 + tokens[0] % 3,
    )
    assert cut == [tokens[: 2 + tokens[0] % 3] for tokens in free]
    assert len({len(tokens) for tokens in cut}) > 1


def test_a_prompt_keeps_its_end_where_the_window_is_short() -> None:
    model = scrambled(config_of("llama gqa tied", vocab_size=len(PIECES)))
    long = "abcd efgh " * 9
    expected = read_again_each_time(model, long, window=18)
    assert written(model, [item(long)], window_tokens=18) == [expected]
    with pytest.raises(ValueError, match="item i: max_new_tokens 12 leave no room"):
        written(model, [item(long)], window_tokens=12)


@pytest.mark.parametrize(
    ("text", "is_right"), [("ab", True), (" ab\n", True), ("cd", True), ("abc", False), ("", False)]
)
def test_an_answer_is_right_if_it_is_one_of_the_choices(text: str, is_right: bool) -> None:
    assert is_exact_match(item("e", choices=("ab", "cd ")), text) == is_right


def test_nats_are_those_of_the_choice_that_is_gold() -> None:
    model = scrambled(config_of("llama gqa tied", vocab_size=len(PIECES)))
    cloze = Item(id="i", cluster="c", kind="cloze", context="abc", choices=("efg",), delimiter=" ")
    generation = item("abc", choices=("h", "efg"), gold=1, delimiter=" ")
    found = score_items(model, TOKENIZER, [cloze, generation], window_tokens=40)
    assert found[0].nats == pytest.approx(found[1].nats, rel=1e-6)
    assert found[0].targets == found[1].targets == 4
