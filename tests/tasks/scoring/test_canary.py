import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.manifest import FileDigest, content_hash
from storage.models import ModelManifest, publish_model
from storage.objects import ObjectStore, open_store
from tasks.judge.decide import decide
from tasks.judge.verdict import CheckConfig
from tasks.scoring.canary import Looker, TokenRecord, canary_of
from tasks.scoring.passages import Sample, passages_a_slice, passages_of, sample_hash, spread_over
from tests.support.lineages import LAYOUT, MODEL
from training.causal_model import CausalModel
from training.data.holdout import HoldoutDocument
from training.decoder.model import Decoder
from training.evaluate import score_documents
from training.token_scores import score_tokens

END = 1


def document(number: int, length: int = 40) -> HoldoutDocument:
    rng = np.random.default_rng(number)
    tokens = np.concatenate([[0], rng.integers(2, MODEL.vocab_size, length), [END]])
    return HoldoutDocument(f"d{number}", f"site{number % 5}", tokens.astype(np.uint16), 4 * length)


def sample(name: str, first: int) -> Sample:
    documents = tuple(document(number) for number in range(first, first + 10))
    role = "new" if name == "news" else "old"
    return Sample(
        slice=f"{name}@s",
        domain=name,
        snapshot="s",
        role=role,
        is_guarded=True,
        documents=documents,
    )


SAMPLES = (sample("books", 0), sample("code", 10), sample("news", 20))


def perturbed(noise: float, seed: int = 0) -> Decoder:
    """The champion's weights, and so much noise in units of their own spread."""
    model = Decoder(MODEL, seed=5).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * float(parameter.std(correction=0)) * drawn)
    return model


class Models:
    """Hands out models, and counts how often."""

    def __init__(self, **models: CausalModel) -> None:
        self.models = models
        self.asked: list[str] = []

    def __call__(self, version: str) -> CausalModel:
        self.asked.append(version)
        return self.models[version]


def looker(store: ObjectStore, models: Models, limit: float = 100.0) -> Looker:
    return Looker(
        store=store,
        layout=LAYOUT,
        model=models,
        end_id=END,
        seq_len=48,
        samples=SAMPLES,
        max_perplexity_ratio=limit,
    )


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Has the manifests of some versions, which differ in their weights."""
    opened = open_store((tmp_path / "store").as_uri())
    for number, version in enumerate(("a", "b", "c", "good", "bad", *(f"n{i}" for i in range(6)))):
        files = (FileDigest("model.safetensors", 1, f"{number:064x}"),)
        manifest = ModelManifest(
            lineage="demo",
            version=version,
            origin="test",
            code_version="0",
            content=content_hash(files),
            files=files,
        )
        publish_model(opened, LAYOUT.model(version), manifest)
    return opened


def record(nats: dict[str, float]) -> TokenRecord:
    """The same loss for every token of a slice."""
    tokens = [nats[item.domain] for item in SAMPLES for _ in range(10) for _ in range(41)]
    return TokenRecord(
        weights="0" * 64,
        sample=sample_hash(SAMPLES),
        targets=(41,) * 30,
        nats=tuple(None if math.isnan(value) else value for value in tokens),
        confidence=(0.5,) * len(tokens),
        is_right=(True,) * len(tokens),
    )


GOOD = record({"books": 2.0, "code": 1.0, "news": 3.0})


def test_a_slice_that_explodes_is_named_and_the_mean_hides_nothing() -> None:
    bad = record({"books": 1.5, "code": 6.5, "news": 3.0})
    canary = canary_of(SAMPLES, bad, GOOD, 100.0)
    assert [item.perplexity_ratio for item in canary.slices] == pytest.approx(
        [math.exp(-0.5), math.exp(5.5), 1.0]
    )
    assert "collapsed on code@s: 6.50 nats per token, 245 times" in canary.problem
    assert canary.passages == 30


def test_forgetting_is_not_collapse() -> None:
    forgetful = record({"books": 9.0, "code": 9.0, "news": 2.9})
    canary = canary_of(SAMPLES, forgetful, GOOD, 100.0)
    assert canary.new_change == pytest.approx(-0.1)
    assert canary.problem == ""
    # The same old losses without the gain that they were lost for.
    useless = record({"books": 9.0, "code": 9.0, "news": 3.1})
    assert "collapsed on code@s, and 1 more" in canary_of(SAMPLES, useless, GOOD, 100.0).problem


def test_a_loss_beyond_all_numbers_is_named() -> None:
    broken = record({"books": 2.0, "code": math.nan, "news": 3.0})
    assert "code@s is not a finite number" in canary_of(SAMPLES, broken, GOOD, 100.0).problem


def test_a_model_against_itself_has_not_moved_at_all(store: ObjectStore) -> None:
    look = looker(store, Models(a=perturbed(0.0), b=perturbed(0.0))).look("b", "a")
    assert look.health.problem == ""
    assert look.health.canary is not None
    assert all(item.perplexity_ratio == 1.0 for item in look.health.canary.slices)
    assert look.health.candidate == look.health.champion
    assert look.numbers.token_change is not None
    assert (look.numbers.token_change.mean, look.numbers.token_change.worse_share) == (0.0, 0.0)
    assert look.numbers.calibration == look.numbers.champion_calibration


def test_what_collapsed_is_refused_before_anything_dear(store: ObjectStore) -> None:
    models = Models(good=perturbed(0.0), bad=perturbed(0.0))
    with torch.no_grad():
        # So that the likeliest token is nearly certain, and nearly always wrong.
        for parameter in models.models["bad"].parameters():
            parameter.mul_(30.0)
    look = looker(store, models).look("bad", "good")
    assert "the candidate has collapsed on" in look.health.problem
    # Nothing was continued, and the verdict stands on the passages alone.
    assert look.health.candidate is None
    assert models.asked == ["bad", "good"]
    report = decide(look.slices, CheckConfig(), health=look.health, candidate="b", champion="a")
    assert report.verdict == "FAIL"
    assert report.reason.startswith("The candidate has collapsed on")
    assert {row.domain for row in report.rows if row.test == "loss"} == {"books", "code"}
    assert all(row.candidate_bits_per_byte is None for row in report.rows)


def test_noise_is_seen_in_the_order_of_its_size(store: ObjectStore) -> None:
    noises = (0.0, 0.02, 0.1, 0.5, 2.0, 10.0)
    models = Models(**{f"n{i}": perturbed(noise) for i, noise in enumerate(noises)})
    found = [
        looker(store, models, limit=1e9).look(f"n{i}", "n0").health.canary
        for i in range(len(noises))
    ]
    worst = [max(s.perplexity_ratio or 0.0 for s in canary.slices) for canary in found if canary]
    assert worst == sorted(worst)
    assert worst[0] == 1.0


def test_a_version_is_looked_at_once(store: ObjectStore) -> None:
    models = Models(a=perturbed(0.0), b=perturbed(0.01), c=perturbed(0.02))
    first = looker(store, models).look("b", "a")
    assert models.asked == ["b", "a", "b", "a"]
    models.asked.clear()
    assert looker(store, models).look("b", "a") == first
    assert models.asked == []
    looker(store, models).look("c", "a")
    assert models.asked == ["c", "c"]


def test_other_passages_are_looked_at_anew(store: ObjectStore) -> None:
    models = Models(a=perturbed(0.0))
    looker(store, models).look("a", None)
    fewer = replace(looker(store, models), samples=SAMPLES[:2])
    models.asked.clear()
    assert len(fewer.look("a", None).slices) == 2
    assert models.asked == ["a", "a"]


def test_token_scores_are_those_of_whole_documents() -> None:
    model = perturbed(0.0)
    documents = [document(number, length=20 + 3 * number) for number in range(7)]
    scored = score_tokens(model, [row.tokens.astype(np.int64) for row in documents])
    whole = score_documents(model, documents, start_id=0, end_id=END, seq_len=64)
    for tokens, score in zip(scored, whole, strict=True):
        assert len(tokens.nats) == score.targets
        # Two orders of the same float32 sums.
        assert math.fsum(tokens.nats) == pytest.approx(score.nats, rel=1e-5)
        assert ((tokens.confidence > 0) & (tokens.confidence <= 1)).all()
        # Whoever is right gave the token that came the probability of the likeliest.
        right = tokens.is_right
        assert np.exp(-tokens.nats[right]) == pytest.approx(tokens.confidence[right], rel=1e-5)


def test_passages_are_the_same_in_whatever_order_documents_come() -> None:
    documents = [document(number, length=200) for number in range(30)]
    chosen = passages_of(documents, 6, seq_len=2048)
    assert [row.document for row in chosen] == [
        row.document for row in passages_of(documents[::-1], 6, seq_len=2048)
    ]
    assert all(len(row.tokens) == 129 for row in chosen)
    assert all(row.tokens[0] == 0 for row in chosen)
    # Beyond what it was trained at, a model is no measure of itself.
    assert all(len(row.tokens) == 33 for row in passages_of(documents, 6, seq_len=32))


@pytest.mark.parametrize("slices", [1, 2, 5, 24, 25, 70, 1000])
def test_the_sample_does_not_grow_with_the_lineage(slices: int) -> None:
    looked_at = len(range(slices)[spread_over(slices)])
    assert 1 <= looked_at <= 24
    assert looked_at * passages_a_slice(looked_at) <= 48
