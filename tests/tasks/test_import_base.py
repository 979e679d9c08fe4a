import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from storage.head import Head
from storage.local_objects import LocalObjects
from storage.replay import read_replay
from tasks.import_base import identity_of_directory, import_base
from tasks.publish import replay_extender
from tests.support.foreign_models import foreign_directory
from tests.support.killing_store import KillingObjects, count_operations, kill_points, run_killed
from tests.support.lineages import (
    LAYOUT,
    SEQ_LEN,
    TEXTS,
    add_snapshot,
    hub_directory,
    newest,
)
from training.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return hub_directory(tmp_path_factory.mktemp("base"))


def run(store: object, base: Path, work_dir: Path, references: tuple[str, ...] = ()) -> Head:
    return import_base(
        store,  # pyright: ignore[reportArgumentType]
        LAYOUT,
        base,
        references=references,
        extend_replay=replay_extender(store, LAYOUT, budget_tokens=1600, seq_len=SEQ_LEN),  # pyright: ignore[reportArgumentType]
        by="test",
        reason="our start",
        work_dir=work_dir,
    )


def test_importing_the_steps_stays_light() -> None:
    code = (
        "import sys, tasks.publish, tasks.review, tasks.import_base;"
        "print({'torch', 'mlflow', 'transformers', 'ray', 'streaming'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_an_imported_model_is_the_first_champion(base: Path, tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    head = run(store, base, tmp_path / "work")
    record = head.versions[-1]
    assert head.champion == record.version == f"1-{identity_of_directory(base)[:8]}"
    assert (record.verdict, record.decision, record.parent) == ("IMPORTED", "published", None)
    assert record.published_on_head == head.number
    assert (head.trunk, head.replay) == (None, None)
    assert head.tokenizer is not None


def test_the_import_computes_what_transformers_computed(base: Path, tmp_path: Path) -> None:
    from training.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from transformers import AutoModelForCausalLM

    store = LocalObjects(tmp_path / "store")
    head = run(store, base, tmp_path / "work")
    path = store.local_path(f"{LAYOUT.model(head.champion or '')}/config.json")
    assert path is not None
    tokens = torch.arange(40).unsqueeze(0) * 7 % 320
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(base)(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(path.parent)(tokens).logits
    assert torch.equal(found, expected)


def test_references_are_learned_and_enter_replay(base: Path, tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    reference = add_snapshot(store, 1)
    head = run(store, base, tmp_path / "work", (reference,))
    assert [(s.id, s.state) for s in head.snapshots] == [(reference, "learned")]
    assert head.replay is not None
    strata = read_replay(store, LAYOUT, head.replay).strata
    assert [(s.snapshot, s.domain, s.samples) for s in strata] == [(reference, "news", 10)]


def test_importing_again_changes_nothing(base: Path, tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    head = run(store, base, tmp_path / "work")
    before = {info.key: info.modified_at for info in store.list(LAYOUT.root)}
    assert run(store, base, tmp_path / "elsewhere") == head
    after = {info.key: info.modified_at for info in store.list(LAYOUT.root)}
    assert {k for k in after if after[k] != before.get(k)} <= {
        k for k in after if "/tokenizers/" in k
    }


def test_the_identity_is_of_the_model_not_of_the_place(base: Path, tmp_path: Path) -> None:
    copy = hub_directory(tmp_path / "copy")
    (copy / "README.md").write_text("about this model")
    assert identity_of_directory(copy) == identity_of_directory(base)
    other = hub_directory(tmp_path / "other", seed=4)
    assert identity_of_directory(other) != identity_of_directory(base)


def test_what_nobody_computes_is_refused_by_name(tmp_path: Path) -> None:
    directory = hub_directory(tmp_path / "base")
    config = json.loads((directory / "config.json").read_text())
    config["residual_multiplier"] = 0.2
    (directory / "config.json").write_text(json.dumps(config))
    store = LocalObjects(tmp_path / "store")
    with pytest.raises(ValueError, match=r"'residual_multiplier' = 0\.2 is not known"):
        run(store, directory, tmp_path / "work")
    assert newest(store).champion is None
    assert list(store.list(LAYOUT.models)) == []


def test_a_model_of_another_family_is_imported_as_it_is(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = foreign_directory(tmp_path / "base", "gpt_neox", vocab_size=300)
    train_tokenizer(TEXTS, base, vocab_size=300)
    store = LocalObjects(tmp_path / "store")
    head = run(store, base, tmp_path / "work")
    path = store.local_path(f"{LAYOUT.model(head.champion or '')}/config.json")
    assert path is not None
    tokens = torch.arange(40).unsqueeze(0) * 7 % 300
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(base)(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(path.parent)(tokens).logits
    assert torch.equal(found, expected)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json: expected a Hugging Face"):
        run(LocalObjects(tmp_path / "store"), tmp_path, tmp_path / "work")


def test_a_model_with_another_tokenizer_than_the_data_is_refused(
    base: Path, tmp_path: Path
) -> None:
    store = LocalObjects(tmp_path / "store")
    add_snapshot(store, 1, tokenizer="lineages/demo/tokenizers/other")
    with pytest.raises(ValueError, match=r"has data of the tokenizer .*other.*new lineage"):
        run(store, base, tmp_path / "work")


def test_a_lineage_has_one_import(base: Path, tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    run(store, base, tmp_path / "work")
    other = hub_directory(tmp_path / "other", seed=4)
    with pytest.raises(ValueError, match=r"already has .*champion 1-"):
        run(store, other, tmp_path / "work")
    assert {info.key.split("/")[3] for info in store.list(LAYOUT.models)} == {
        newest(store).champion
    }


def test_killed_anywhere_it_completes_when_started_again(base: Path, tmp_path: Path) -> None:
    def attempt(store: object) -> Head:
        return run(store, base, tmp_path / "work")

    operations = count_operations(LocalObjects(tmp_path / "scratch"), attempt)
    expected = newest(LocalObjects(tmp_path / "scratch"))
    # Every third: the store operations are uploads of small files, one much like the next.
    for index, kill in enumerate(kill_points(operations)[::3]):
        store = LocalObjects(tmp_path / str(index))
        exit_info = run_killed(lambda: attempt(KillingObjects(store, **kill)))  # noqa: B023
        assert exit_info.killed, exit_info.error
        head = attempt(store)
        assert (head.champion, head.number) == (expected.champion, expected.number)
        assert head.versions == expected.versions
