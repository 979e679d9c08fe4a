"""Curated documents become arrays of tokens; their texts are dropped as soon as that is done."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.curate import Curated
from tasks.documents import Document
from tasks.encode import DocumentEncoder
from tasks.split import Split

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

_BATCH_DOCUMENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedDocument:
    """A document that was read, kept or dropped; without its text."""

    document: Document
    """``text`` is empty."""
    content: bytes
    """16 bytes: digest of the normalised text."""
    tokens: np.ndarray
    """Of the text, without framing; empty for a document that curation dropped."""
    text_bytes: int
    """Bytes of the normalised text as UTF-8; 0 for a document that curation dropped."""
    split: Split
    reason: str
    """Why it was dropped, "" when it was kept."""


def tokenize_documents(
    curated: Iterable[Curated], encoder: DocumentEncoder, progress: Callable[[int], None]
) -> list[TokenizedDocument]:
    """Tokenise the kept ones of ``curated``, in batches; all of them come out, in order.

    ``split`` is ``dropped`` for what curation dropped and ``train`` for the rest, until the
    documents are split. ``progress`` is told how many documents are done.

    Raises:
        EncodingMismatchError: Two ways to encode a document gave different tokens.
    """
    nothing = np.empty(0, encoder.token_dtype)
    remaining = iter(curated)
    done: list[TokenizedDocument] = []
    while batch := list(islice(remaining, _BATCH_DOCUMENTS)):
        encoded = iter(encoder.encode([item for item in batch if not item.reason]))
        for item in batch:
            text, tokens = ("", nothing) if item.reason else (item.document.text, next(encoded))
            done.append(
                TokenizedDocument(
                    document=replace(item.document, text=""),
                    content=item.digest,
                    tokens=tokens,
                    text_bytes=len(text.encode()),
                    split="dropped" if item.reason else "train",
                    reason=item.reason,
                )
            )
        progress(len(done))
    return done


def train_on(
    curated: Iterable[Curated], work_dir: Path, *, vocab_size: int
) -> tuple["Tokenizer", Iterator[Curated]]:
    """Train a tokenizer on the kept ones of ``curated``; gives it and the documents once more.

    The texts are kept in a file of ``work_dir`` meanwhile.
    """
    from training.tokenizer import train_tokenizer  # noqa: PLC0415  imports tokenizers

    spool = work_dir / "texts.jsonl"
    without_texts: list[Curated] = []
    with spool.open("w", encoding="utf-8") as file:
        for item in curated:
            if not item.reason:
                file.write(json.dumps(item.document.text) + "\n")
            without_texts.append(replace(item, document=replace(item.document, text="")))
    tokenizer = train_tokenizer(_read_texts(spool), work_dir / "tokenizer", vocab_size=vocab_size)
    return tokenizer, _with_texts(without_texts, spool)


def _with_texts(without_texts: Iterable[Curated], spool: Path) -> Iterator[Curated]:
    texts = _read_texts(spool)
    for item in without_texts:
        if item.reason:
            yield item
        else:
            yield replace(item, document=replace(item.document, text=next(texts)))


def _read_texts(spool: Path) -> Iterator[str]:
    with spool.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
