"""What the champion makes of the beginnings of documents, and what is dropped for it."""

import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from storage.errors import CorruptError
from storage.local_objects import LocalObjects
from storage.objects import ObjectStore
from tasks.curate import CurateConfig, apply_rules
from tasks.curation.annotate import judge
from tasks.curation.annotation_table import AnnotationWriter, read_annotations
from tasks.curation.champion import Champion, champion_of
from tasks.curation.config import DomainRules
from tasks.curation.learned import NOTHING_LEARNED, Learned
from tasks.curation.licences import LicenceRules
from tasks.curation.perplexity import PER_BYTE, PER_TOKEN, TOKENS, PerplexityRules
from tasks.curation.pii import PiiRules
from tasks.curation.scorer import Numbers
from tasks.documents import Document
from tests.support.lineages import LAYOUT, MODEL, TEXTS, hub_directory, import_champion
from training.beginnings import beginnings_of, nats_of_beginnings
from training.causal_model import CausalModel
from training.model_files import load_model
from training.tokenizer import Tokenizer, load_tokenizer

_DOCUMENT = Document(
    id="1", cluster="", text="", source="s", uri="", position=0, domain="web", licence="", time=""
)
_SHORT = "river"
_SCORED = PerplexityRules()
_TEXTS = [
    *TEXTS[:12],
    _SHORT,
    "lake " * 400,
    "=" * 20_000,
    "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE} " * 90,
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(directory: Path) -> CausalModel:
    return load_model(directory)


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def champion(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    folder = tmp_path_factory.mktemp("lineage")
    return champion_in(LocalObjects(folder / "store"), directory, folder / "work")


def champion_in(store: ObjectStore, directory: Path, work_dir: Path) -> Champion:
    """The model of a directory as the champion of a lineage without data."""
    head = import_champion(store, directory, work_dir)
    champion = champion_of(store, LAYOUT, head, work_dir)
    assert champion is not None
    return champion


@pytest.fixture
def other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    yield
    torch.set_num_threads(before)


def documents(texts: list[str], **changes: str) -> list[Document]:
    return [
        replace(_DOCUMENT, id=str(n), text=text, **changes)  # pyright: ignore[reportArgumentType]
        for n, text in enumerate(texts)
    ]


def config(perplexity: PerplexityRules = _SCORED, pii: PiiRules | None = None) -> CurateConfig:
    rules = DomainRules(perplexity=perplexity, pii=pii)
    return CurateConfig(domains={"web": rules}, min_chars=5)


def found_in(
    given: list[Document], curate: CurateConfig, champion: Champion | None
) -> tuple[list[str], Numbers]:
    """Why each is dropped, and the numbers."""
    learned = Learned(champion=champion)
    _, reasons, [(_, numbers)] = apply_rules(given, curate, learned)
    return reasons, numbers


@torch.inference_mode()
def test_the_nats_are_those_of_a_forward_pass_over_the_first_tokens(
    model: CausalModel, tokenizer: Tokenizer, champion: Champion
) -> None:
    most = 20
    scores = champion.score(_TEXTS, most)
    for text, (nats, tokens, _) in zip(_TEXTS, scores, strict=True):
        ids = tokenizer.encode_batch([text])[0].astype(np.int64)[:most]
        inputs = torch.tensor([[tokenizer.start_id, *ids[:-1]]])
        loss = F.cross_entropy(model(inputs)[0], torch.from_numpy(ids), reduction="sum")
        assert tokens == len(ids)
        assert nats == pytest.approx(float(loss), rel=1e-5)


def test_a_beginning_has_the_bytes_of_its_tokens(tokenizer: Tokenizer) -> None:
    for most in (1, 7, 48, 10_000):
        found = beginnings_of(tokenizer, TEXTS, most_tokens=most)
        for text, (tokens, text_bytes) in zip(TEXTS, found, strict=True):
            assert len(tokens) <= most
            assert tokenizer.decode(tokens) == text.encode()[:text_bytes].decode()
    # A token that is a part of a character counts as the whole of it.
    assert beginnings_of(tokenizer, ["\N{SNOWMAN}" * 9], most_tokens=4)[0].text_bytes == 6


def test_of_a_text_without_end_only_so_much_is_encoded_as_can_be_needed(
    tokenizer: Tokenizer,
) -> None:
    [(tokens, text_bytes)] = beginnings_of(tokenizer, ["\t" * 1_000_000], most_tokens=10)
    assert len(tokens) == 10
    assert text_bytes <= 160


def test_a_text_has_the_same_bits_in_any_company_and_with_any_threads(
    champion: Champion, other_threads: None, model: CausalModel, tokenizer: Tokenizer
) -> None:
    whole = champion.score(_TEXTS, 48)
    alone = np.concatenate([champion.score([text], 48) for text in _TEXTS])
    assert alone.tobytes() == whole.tobytes()
    order = random.Random(1).sample(range(len(_TEXTS)), len(_TEXTS))
    shuffled = champion.score([_TEXTS[place] for place in order], 48)
    assert shuffled.tobytes() == whole[order].tobytes()
    beginnings = beginnings_of(tokenizer, _TEXTS, most_tokens=48)
    for num_threads in (1, 3):
        nats = nats_of_beginnings(
            model, beginnings, start_id=tokenizer.start_id, num_threads=num_threads
        )
        assert nats == whole[:, 0].tolist()


def test_annotations_do_not_depend_on_how_documents_are_put_into_batches(
    champion: Champion,
) -> None:
    given = documents([*_TEXTS, *_TEXTS[:3]])
    curate = config()
    _, whole = found_in(given, curate, champion)
    for size in (1, 4):
        parts = [
            found_in(given[start : start + size], curate, champion)[1]
            for start in range(0, len(given), size)
        ]
        for name in (TOKENS, PER_TOKEN, PER_BYTE):
            together = np.concatenate([part[name] for part in parts])
            assert together.tobytes() == whole[name].tobytes()


def test_numbers_are_by_token_and_by_byte_of_what_the_window_holds(champion: Champion) -> None:
    _, numbers = found_in(documents([_SHORT, "lake " * 400]), config(), champion)
    short, long = champion.score([_SHORT, "lake " * 400], 48)
    # The window of the model is shorter than the 256 tokens that are asked for.
    assert numbers[TOKENS].tolist() == [short[1], MODEL.max_position_embeddings]
    assert numbers[PER_TOKEN].tolist() == [round(n / t, 4) for n, t, _ in (short, long)]
    assert numbers[PER_BYTE].tolist() == [round(n / b, 4) for n, _, b in (short, long)]
    assert short[2] == len(_SHORT)


def test_without_a_threshold_nothing_is_dropped(champion: Champion) -> None:
    reasons, _ = found_in(documents(_TEXTS), config(), champion)
    assert reasons == [""] * len(_TEXTS)


def test_thresholds_keep_what_lies_between_them_and_on_them(champion: Champion) -> None:
    given = documents(_TEXTS)
    _, numbers = found_in(given, config(), champion)
    nats = numbers[PER_BYTE]
    low, high = np.sort(nats)[[3, -4]]
    between = PerplexityRules(min_nats_per_byte=float(low), max_nats_per_byte=float(high))
    reasons, again = found_in(given, config(between), champion)
    assert reasons == [
        "perplexity:too_low" if each < low else "perplexity:too_high" if each > high else ""
        for each in nats
    ]
    assert len(set(reasons)) == 3
    assert again[PER_BYTE].tobytes() == nats.tobytes()


def test_other_thresholds_are_tried_on_the_stored_table_without_a_model(
    champion: Champion, tmp_path: Path
) -> None:
    given = documents([*_TEXTS, ""])
    curate = config()
    _, _, found = apply_rules(given, curate, Learned(champion=champion))
    with AnnotationWriter(tmp_path / "a", curate.annotation_columns) as writer:
        writer.add(given, found)
    domains, stored = read_annotations(tmp_path / "a")
    threshold = float(np.median(stored[PER_BYTE]))
    for rules in (
        PerplexityRules(max_nats_per_byte=threshold),
        PerplexityRules(min_nats_per_byte=threshold),
    ):
        strict = config(rules)
        reasons, _ = found_in(given, strict, champion)
        judged = judge(stored, domains, strict.domains)
        # What has no token was not scored, and is not dropped for its perplexity.
        assert (reasons.pop(), judged.pop()) == ("too_short", "")
        assert judged == reasons
        assert 0 < judged.count("") < len(judged)


def test_before_there_is_a_champion_nothing_is_scored_and_no_threshold_drops() -> None:
    strict = config(PerplexityRules(min_nats_per_byte=100))
    reasons, numbers = found_in(documents(TEXTS), strict, None)
    assert reasons == [""] * len(TEXTS)
    assert not numbers[TOKENS].any()
    assert np.isnan(numbers[PER_BYTE]).all()
    assert apply_rules(documents(TEXTS), strict, NOTHING_LEARNED)[1] == reasons


def test_only_what_no_other_rule_drops_is_scored(champion: Champion) -> None:
    curate = replace(
        config(pii=PiiRules(drop=("email",))),
        licences={"*": LicenceRules(deny=("GPL-*",))},
    )
    given = [
        *documents([TEXTS[0], "tiny", f"{TEXTS[1]} write to jane.doe@corp-mail.org"]),
        *documents([TEXTS[2]], licence="GPL-3.0"),
    ]
    reasons, numbers = found_in(given, curate, champion)
    assert reasons == ["", "too_short", "pii:email", "licence:denied"]
    assert (numbers[TOKENS] > 0).tolist() == [True, False, False, False]
    assert np.isnan(numbers[PER_BYTE]).tolist() == [False, True, True, True]


def test_what_is_scored_is_the_text_that_would_be_trained_on(champion: Champion) -> None:
    curate = config(pii=PiiRules())
    masked = documents(["write to [EMAIL] at dawn", "write to jane.doe@corp-mail.org at dawn"])
    _, numbers = found_in(masked, curate, champion)
    assert len(set(numbers[PER_TOKEN])) == len(set(numbers[TOKENS])) == 1


def test_a_champion_travels_as_a_place_and_gives_the_same_where_it_is_opened_again(
    champion: Champion,
) -> None:
    here = champion.score(TEXTS, 30)
    packed = pickle.dumps(Learned(champion=champion))
    assert len(packed) < 2000
    there: Learned = pickle.loads(packed)
    assert there.champion == champion
    assert there.champion is not None
    assert there.champion.score(TEXTS, 30).tobytes() == here.tobytes()


def test_a_model_that_was_altered_scores_nothing(directory: Path, tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    champion = champion_in(store, directory, tmp_path / "work")
    weights = store.local_path(f"{champion.model}/model.safetensors")
    assert weights is not None
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    store.put(f"{champion.model}/model.safetensors", bytes(body))
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        champion.score(TEXTS[:1], 10)


def test_a_token_that_the_model_does_not_know_is_refused(
    model: CausalModel, tokenizer: Tokenizer
) -> None:
    [beginning] = beginnings_of(tokenizer, ["river"], most_tokens=3)
    strange = beginning._replace(tokens=beginning.tokens + MODEL.vocab_size)
    with pytest.raises(ValueError, match="expected tokens below 320, the model's vocabulary"):
        nats_of_beginnings(model, [strange], start_id=0, num_threads=1)


def test_thresholds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_nats_per_byte 2 is not below max_nats_per_byte 1"):
        PerplexityRules(min_nats_per_byte=2, max_nats_per_byte=1)
