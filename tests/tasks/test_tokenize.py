from pathlib import Path

import numpy as np
import pytest

from tasks.curate import Curated
from tasks.documents import Document
from tasks.encode import DocumentEncoder
from tasks.tokenize import tokenize_documents, train_on


def _curated(texts: list[str]) -> list[Curated]:
    """Every third one dropped."""
    return [
        Curated(
            document=Document(
                id=f"d{n}",
                cluster=f"c{n}",
                text=text,
                source="s",
                uri="/data/s",
                position=n,
                domain="web",
                licence="cc0",
                time="",
            ),
            digest=n.to_bytes(16, "big"),
            reason="duplicate" if n % 3 == 2 else "",
        )
        for n, text in enumerate(texts)
    ]


_TEXTS = [f"line\u2028{n}\n\tété \x85 {n * 7} over the hill" for n in range(25)]


def test_training_gives_the_kept_documents_back_unchanged(tmp_path: Path) -> None:
    curated = _curated(_TEXTS)
    _, again = train_on(iter(curated), tmp_path, vocab_size=300)
    for before, after in zip(curated, again, strict=True):
        if not before.reason:
            assert after == before
        else:
            assert (after.digest, after.reason) == (before.digest, "duplicate")


def test_documents_come_out_in_order_without_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tokenize._BATCH_DOCUMENTS", 4)
    curated = _curated(_TEXTS)
    tokenizer, _ = train_on(curated, tmp_path, vocab_size=300)
    progress: list[int] = []
    done = tokenize_documents(
        curated, DocumentEncoder(tokenizer, tmp_path / "certified"), progress.append
    )
    assert progress == [4, 8, 12, 16, 20, 24, 25]
    for before, after in zip(curated, done, strict=True):
        assert (after.document.id, after.document.text) == (before.document.id, "")
        assert (after.content, after.reason) == (before.digest, before.reason)
        if before.reason:
            assert (after.split, len(after.tokens), after.text_bytes) == ("dropped", 0, 0)
        else:
            assert after.split == "train"
            assert tokenizer.decode(after.tokens) == before.document.text
            assert after.text_bytes == len(before.document.text.encode())
        assert after.tokens.dtype == np.uint16
