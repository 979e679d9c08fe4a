from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.ledger import LedgerRow, write_ledger
from storage.models import publish_model, upload_files
from storage.suite import SuiteManifest
from tasks.evaluations.copies import CopyProbe, CopyRow
from tasks.evaluations.copy_probe import copy_probe
from tasks.scoring.compute import Desk
from tests.tasks.evaluations.test_freeze import LAYOUT, NOTHING, Place, story
from training.config import ModelConfig
from training.decoder.model import Decoder
from training.hub.directory import write_model
from training.tokenizer import fetch_tokenizer

MODEL = ModelConfig(
    vocab_size=608,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    intermediate_size=128,
    max_position_embeddings=64,
)
UPDATE = "feedbeef00000000"
OFTEN = range(6)
"""Documents that were seen many times; ``ONCE`` follows."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def publish(place: Place, version: str, model: Decoder) -> None:
    directory = place.folder / version
    write_model(directory, MODEL, model.state_dict(), start_id=0, end_id=0)
    prefix = LAYOUT.model(version)
    manifest = upload_files(
        place.store,
        prefix,
        directory,
        lineage="demo",
        version=version,
        origin="test",
        code_version="0",
    )
    publish_model(place.store, prefix, manifest)


def learned_by_heart(texts: list[list[int]], seed: int) -> Decoder:
    """A model that was trained on the beginnings of a few texts until it knows them."""
    model = Decoder(MODEL)
    model.init_weights(seed)
    tokens = torch.tensor([[0, *text[:48]] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(120):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2
    return model


def prepare(place: Place) -> tuple[SuiteManifest, str]:
    """Ledger and models: the candidate has by heart what the ledger says was seen often."""
    suite = place.freeze(minted=NOTHING)
    snapshot = place.head.snapshots[0].id
    assert place.head.tokenizer is not None
    work = place.folder / "work"
    tokenizer = fetch_tokenizer(place.store, place.head.tokenizer, work / "tokenizer")
    held = {row.document for row in Desk(place.store, LAYOUT, work).documents(suite.slices[0])}
    trained = [n for n in range(60) if f"web/d{n}" not in held][:12]
    texts = tokenizer.encode_batch([story(n) for n in trained])
    rows = [
        LedgerRow(
            snapshot=snapshot,
            domain="web",
            document=f"web/d{n}",
            exposures=20 if place_of in OFTEN else 1,
            tokens=len(text) * (20 if place_of in OFTEN else 1),
        )
        for place_of, (n, text) in enumerate(zip(trained, texts, strict=True))
    ]
    write_ledger(place.store, LAYOUT, UPDATE, rows)
    champion = Decoder(MODEL)
    champion.init_weights(1)
    publish(place, "1-x", champion)
    often = [np.asarray(text).tolist() for text in texts[: len(OFTEN)]]
    publish(place, "2-y", learned_by_heart(often, 1))
    return suite, snapshot


def test_what_was_seen_many_times_and_is_known_by_heart_jumps_and_nothing_else(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    suite, _ = prepare(place)
    desk = Desk(place.store, LAYOUT, tmp_path / "work")
    probe = copy_probe(desk, suite, UPDATE, candidate="2-y", champion="1-x")
    assert probe is not None
    once, often = probe.rows
    assert (once.seen_from, once.seen_to, once.documents) == (1, 1, 6)
    assert (often.seen_from, often.seen_to, often.documents) == (20, 20, 6)
    assert often.copied_share >= 5 / 6
    assert once.copied_share == often.held_out_copied_share == 0.0
    assert often.memorised_nats_per_token > 2 > abs(once.memorised_nats_per_token)
    assert [row.jumped for row in probe.rows] == [False, True]
    assert probe.warning.startswith("text seen 20 to 20 times is memorised: ")
    assert copy_probe(desk, suite, UPDATE, candidate="2-y", champion="1-x") == probe


def test_an_untrained_model_has_nothing_by_heart(tmp_path: Path) -> None:
    place = Place(tmp_path)
    suite, _ = prepare(place)
    desk = Desk(place.store, LAYOUT, tmp_path / "work")
    probe = copy_probe(desk, suite, UPDATE, candidate="1-x", champion=None)
    assert probe is not None
    assert not probe.warning
    assert {row.champion_gap for row in probe.rows} == {None}
    # Without a ledger nobody knows what was seen.
    assert copy_probe(desk, suite, "0" * 16, candidate="1-x", champion=None) is None


def test_a_gap_that_the_champion_has_too_is_no_memory() -> None:
    row = CopyRow(
        seen_from=2,
        seen_to=3,
        documents=40,
        nats_per_token=2.0,
        held_out_nats_per_token=2.8,
        copied_share=0.0,
        held_out_copied_share=0.0,
    )
    assert row.jumped
    beside = replace(row, champion_gap=0.7)
    assert not beside.jumped
    assert replace(beside, copied_share=0.2).jumped
    assert not replace(beside, copied_share=0.2, held_out_copied_share=0.15).jumped
    assert CopyProbe(prefix_tokens=32, copied_tokens=16, rows=(beside,)).warning == ""
