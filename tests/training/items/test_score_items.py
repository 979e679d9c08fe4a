"""Scores are those of transformers' logits, each continuation alone and nothing shared."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.foreign_models import FAMILIES as FOREIGN
from tests.support.foreign_models import foreign_directory
from tests.training.families import FAMILIES, config_of, of_transformers, scrambled
from tests.training.items.pieces import PIECES, PieceTokenizer
from training.causal_model import CausalModel
from training.decoder.model import Decoder
from training.foreign.files import load_foreign
from training.items.item import Item, Kind
from training.items.score import ItemScore
from training.items.score_items import score_items
from training.items.windows import continuations_of, windows_of

TOKENIZER = PieceTokenizer()
WINDOW = 24
TEXTS = st.text("abcdefgh \n", min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@st.composite
def some_items(draw: st.DrawFn) -> list[Item]:
    kinds: st.SearchStrategy[Kind] = st.sampled_from(
        ("multiple_choice", "cloze", "minimal_pair", "perplexity")
    )
    contexts = draw(st.lists(st.text("abcdefgh \n", max_size=30), min_size=1, max_size=3))
    items: list[Item] = []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(kinds)
        choices = draw(st.lists(TEXTS, min_size=2, max_size=4))
        is_single = kind in ("cloze", "perplexity")
        items.append(
            Item(
                id=f"i{number}",
                cluster="c",
                kind=kind,
                context=""
                if kind in ("minimal_pair", "perplexity")
                else draw(st.sampled_from(contexts)),
                choices=tuple(choices[:1] if is_single else choices),
                gold=0 if is_single else draw(st.integers(0, len(choices) - 1)),
                delimiter=draw(st.sampled_from(["", " "])),
                nats_per=draw(st.sampled_from(["choice", "character", "byte"])),
            )
        )
    return items


EXAMPLES = [
    Item(
        id="mc",
        cluster="c",
        kind="multiple_choice",
        context="abcd efgh abc",
        choices=("ab", "cd ef", "gh gh gh", "ab"),
        gold=1,
        delimiter=" ",
    ),
    Item(id="cloze", cluster="c", kind="cloze", context="abcd efg", choices=("h abc",)),
    Item(id="pair", cluster="c", kind="minimal_pair", choices=("ab cd ef", "ab cd eg")),
    Item(id="long", cluster="c", kind="perplexity", choices=("ab cd ef gh abc " * 6,)),
    Item(
        id="cut", cluster="c", kind="multiple_choice", context="abcdefgh" * 9, choices=("a", "bcd")
    ),
    Item(
        id="contexts",
        cluster="c",
        kind="multiple_choice",
        contexts=("abc ab", "abc ef"),
        choices=("gh", "gh"),
        gold=1,
        delimiter=" ",
    ),
]


def reference(network: Any, item: Item) -> tuple[list[float], list[bool]]:
    """Nats and greediness of each continuation, window after window."""
    nats: list[float] = []
    are_greedy: list[bool] = []
    for asked in continuations_of(item):
        nats.append(0.0)
        are_greedy.append(True)
        for window in windows_of([asked], TOKENIZER, window_tokens=WINDOW):
            tokens = torch.tensor([window.tokens])
            with torch.no_grad():
                logits = network(input_ids=tokens[:, :-1]).logits[0, -window.targets :].double()
            targets = tokens[0, -window.targets :]
            nats[-1] += F.cross_entropy(logits, targets, reduction="sum").item()
            are_greedy[-1] &= bool((logits.argmax(-1) == targets).all())
    return nats, are_greedy


def check(network: Any, items: Sequence[Item], scores: Sequence[ItemScore]) -> None:
    for item, score in zip(items, scores, strict=True):
        nats, are_greedy = reference(network, item)
        assert score.nats == pytest.approx(nats[item.gold], rel=1e-5), item
        if item.kind == "cloze":
            assert score.is_correct == are_greedy[0]
        elif item.kind == "perplexity":
            assert not score.is_correct
        else:
            length = {"choice": lambda _: 1, "character": len, "byte": lambda c: len(c.encode())}
            losses = [
                each / length[item.nats_per](choice)
                for each, choice in zip(nats, item.choices, strict=True)
            ]
            best = min(losses)
            likely = [n for n, loss in enumerate(losses) if loss <= best * (1 + 1e-5)]
            assert score.is_correct == (item.gold in likely) or len(likely) > 1
            assert score.answer in [(item.contexts or item.choices)[n] for n in likely]


def pair_of(variant: str) -> tuple[Decoder, Any]:
    config = config_of(variant, vocab_size=len(PIECES))
    ours, theirs = scrambled(config), of_transformers(config)
    theirs.load_state_dict(ours.state_dict(), strict=not config.tie_embeddings)
    return ours, theirs.eval()


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("variant", FAMILIES)
def test_native_families_score_as_transformers_does(
    variant: str, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_packed:
        monkeypatch.setattr("training.decoder.model.can_pack", lambda _: False)
    ours, theirs = pair_of(variant)
    check(theirs, EXAMPLES, score_items(ours, TOKENIZER, EXAMPLES, window_tokens=WINDOW))


@pytest.mark.parametrize("family", FOREIGN)
def test_families_of_transformers_score_as_alone(family: str, tmp_path: Path) -> None:
    model = load_foreign(foreign_directory(tmp_path, family, vocab_size=len(PIECES)))
    scores = score_items(model, TOKENIZER, EXAMPLES, window_tokens=WINDOW)
    check(copy.deepcopy(model.network), EXAMPLES, scores)


def test_families_that_look_all_the_way_back_take_trees(tmp_path: Path) -> None:
    takes_trees = {
        family: load_foreign(foreign_directory(tmp_path / family, family)).takes_trees
        for family in ("gpt2", "opt", "falcon", "bloom", "gemma3_text")
    }
    # bloom has biases by distance in the row, gemma3_text sliding windows that a mask replaces.
    assert takes_trees == {
        "gpt2": True,
        "opt": True,
        "falcon": True,
        "bloom": False,
        "gemma3_text": False,
    }


@settings(max_examples=40, deadline=None)
@given(some_items(), st.sampled_from([1, 40, 4096]))
def test_any_items_score_as_each_continuation_alone(items: list[Item], batch_tokens: int) -> None:
    ours, theirs = MODELS
    scores = score_items(ours, TOKENIZER, items, window_tokens=WINDOW, batch_tokens=batch_tokens)
    check(theirs, items, scores)


@pytest.mark.parametrize("variant", ["llama gqa tied", "mistral", "olmo2"])
def test_batches_change_nats_by_less_than_rounding_and_order_by_nothing(variant: str) -> None:
    ours, _ = pair_of(variant)

    def nats(items: list[Item], batch_tokens: int) -> list[float]:
        scores = score_items(
            ours, TOKENIZER, items, window_tokens=WINDOW, batch_tokens=batch_tokens
        )
        return [score.nats for score in scores]

    whole = nats(EXAMPLES, 4096)
    assert nats(EXAMPLES[::-1], 4096)[::-1] == whole
    assert nats(EXAMPLES, 4096) == whole
    for batch_tokens in (1, 30, 100):
        assert nats(EXAMPLES, batch_tokens) == pytest.approx(whole, rel=2e-6)
    alone = [nats([item], 4096)[0] for item in EXAMPLES]
    assert alone == pytest.approx(whole, rel=2e-6)


def constant_model() -> Decoder:
    """Every token is as likely as every other."""
    model = Decoder(config_of("llama gqa tied", vocab_size=len(PIECES)))
    with torch.no_grad():
        model.model.norm.weight.zero_()
    return model


def test_of_choices_as_likely_as_each_other_the_first_is_taken() -> None:
    def tied(gold: int) -> Item:
        return Item(
            id="i", cluster="c", kind="multiple_choice", context="a", choices=("e", "f"), gold=gold
        )

    scores = score_items(constant_model(), TOKENIZER, [tied(0), tied(1)], window_tokens=WINDOW)
    assert [score.answer for score in scores] == ["e", "e"]
    assert [score.is_correct for score in scores] == [True, False]
    assert scores[0].nats == pytest.approx(torch.tensor(float(len(PIECES))).log().item())


def test_a_cloze_is_right_where_no_token_is_likelier_and_tells_what_would_be_written() -> None:
    ours, theirs = MODELS
    cloze = Item(id="i", cluster="c", kind="cloze", context="abcd e", choices=("g",))
    (score,) = score_items(ours, TOKENIZER, [cloze], window_tokens=WINDOW)
    tokens = torch.tensor([TOKENIZER.encode_batch(["abcd e"])[0].tolist()])
    likeliest = PIECES[int(theirs(input_ids=tokens).logits[0, -1].argmax())]
    assert score.answer == likeliest
    assert score.is_correct == (likeliest == "g")


def test_nats_a_byte_and_a_character_may_choose_otherwise() -> None:
    def chosen(nats_per: Any) -> str:
        item = Item(
            id="i",
            cluster="c",
            kind="multiple_choice",
            context="a",
            choices=("e", "éé"),
            nats_per=nats_per,
        )
        return score_items(constant_model(), TOKENIZER, [item], window_tokens=WINDOW)[0].answer

    # One token of one byte against two of two bytes each: 1 against 2 units of surprise.
    assert chosen("choice") == "e"
    assert chosen("character") == "e"
    assert chosen("byte") == "éé"


def test_progress_counts_items_up_to_all() -> None:
    seen: list[tuple[int, int]] = []
    items = [*EXAMPLES, Item(id="w", cluster="c", kind="generation", context="a", choices=("b",))]
    score_items(
        MODELS[0],
        TOKENIZER,
        items,
        window_tokens=64,
        batch_tokens=20,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(items), len(items))


def test_a_tokenizer_of_another_model_is_refused() -> None:
    model: CausalModel = Decoder(config_of("llama gqa tied", vocab_size=5))
    item = Item(id="i", cluster="c", kind="cloze", context="a", choices=("f",))
    with pytest.raises(ValueError, match=r"expected tokens below 5, .* found 7"):
        score_items(model, TOKENIZER, [item], window_tokens=WINDOW)


def test_no_items_have_no_scores() -> None:
    assert score_items(MODELS[0], TOKENIZER, [], window_tokens=WINDOW) == []


def test_bf16_is_near_fp32() -> None:
    ours = MODELS[0]
    exact, near = (
        score_items(ours, TOKENIZER, EXAMPLES, window_tokens=WINDOW, precision=precision)
        for precision in ("fp32", "bf16")
    )
    # bf16 has 8 bits.
    assert [score.nats for score in near] == pytest.approx([s.nats for s in exact], rel=0.02)
    assert [score.nats for score in near] != [score.nats for score in exact]


MODELS = pair_of("qwen3")
