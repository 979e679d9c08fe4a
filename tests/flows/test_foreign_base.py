"""A base model of a family that only transformers computes, through whole updates by command."""

from pathlib import Path
from typing import Any

import torch

from storage.head import read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from tests.support.commands import Commands
from tests.support.foreign_models import foreign_directory
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage, source
from training.pyfunc import TextGenerator
from training.tokenizer_training import train_tokenizer

LAYOUT = Layout("tiny")


def test_a_gpt_neox_base_is_updated_twice_exported_and_generates(
    prefect_server: str, empty_home: Commands, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    lineage = TinyLineage(tmp_path / "lineage")
    text = lineage.add("ledger").read_text().splitlines()
    tokenizer = train_tokenizer(text, lineage.folder / "base", vocab_size=300)
    foreign_directory(tokenizer.directory, "gpt_neox", vocab_size=tokenizer.vocab_size)
    lineage.write(
        base={"model": None, "directory": "base"},
        sources=[source("ledger")],
        budget={"tokens": 20 * 16 * SEQ_LEN},
        check={"accept_unguarded": True},
    )
    first = empty_home.run("update", lineage.file, "--json")
    assert first.code == 0, first.err
    assert "model: gpt_neox, computed by transformers" in first.err
    lineage.add("ledger", 2)
    second = empty_home.run("update", lineage.file, "--json")
    # Twenty more steps on more of the same may be better by too little.
    assert second.code in (0, 3, 4), second.err

    store = LocalObjects(empty_home.home / "store")
    head = read_head(store, LAYOUT)
    assert head is not None
    imported, once, twice = head.versions
    assert (imported.verdict, once.verdict) == ("IMPORTED", "PASS")
    assert twice.parent == once.version
    for version in (once.version, twice.version):
        path = store.local_path(f"{LAYOUT.model(version)}/config.json")
        assert path is not None
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent)
        prompt = torch.tensor([[tokenizer.start_id, 5, 6]])
        written = model.generate(prompt, max_new_tokens=4, do_sample=False)
        assert type(model).__name__ == "GPTNeoXForCausalLM"
        assert written.shape[1] > prompt.shape[1]
    assert len(TextGenerator(path.parent).predict(["debit ACC-10"])[0]) > 0
