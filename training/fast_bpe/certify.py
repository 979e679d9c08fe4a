"""No tokenizer takes the fast path before it gave the slow path's ids for thousands of texts here.

What was found is kept in a folder of this machine under the digest of all that it depends on, so
that the trial is made once: some seconds.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

import numpy as np

from training.fast_bpe.encoder import FastEncoder, NoFastPathError
from training.fast_bpe.tables import spelled_texts
from training.fast_bpe.trial_texts import trial_texts

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

NUM_TRIALS = 12_000
_SHOWN_IDS = 6


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two ways to encode a text part."""

    index: int
    """First token that differs."""
    slow: tuple[int, ...]
    """Ids that ``tokenizers`` gives from there on, a few."""
    fast: tuple[int, ...]
    """Ids that the fast path gives from there on, a few."""

    def __str__(self) -> str:
        return (
            f"from token {self.index} on tokenizers gives {list(self.slow)}, "
            f"the fast path {list(self.fast)}"
        )


def difference_of(slow: np.ndarray, fast: np.ndarray) -> Difference | None:
    """Where two arrays of ids part; None when they are equal."""
    if np.array_equal(slow, fast):
        return None
    shorter = min(len(slow), len(fast))
    differ = np.flatnonzero(slow[:shorter] != fast[:shorter])
    index = int(differ[0]) if differ.size else shorter
    shown = slice(index, index + _SHOWN_IDS)
    return Difference(index, tuple(slow[shown].tolist()), tuple(fast[shown].tolist()))


def certified_encoder(tokenizer: "Tokenizer", folder: Path) -> FastEncoder:
    """The fast path of ``tokenizer``, tried here before or now. Safe to retry.

    Args:
        tokenizer: To be matched.
        folder: Where the outcomes of trials on this machine are kept; made if it is missing.

    Raises:
        NoFastPathError: There is none, or it gave other ids; the message says which.
    """
    encoder = FastEncoder(tokenizer.encoder, tokenizer.directory / "tokenizer.json")
    record = _record_of(tokenizer, folder)
    if record.is_file():
        found = json.loads(record.read_text("utf-8"))["difference"]
    else:
        found = _try(tokenizer, encoder)
        _write(record, found)
    if found:
        raise NoFastPathError(f"its fast path gives other ids: {found}")
    return encoder


def revoke(tokenizer: "Tokenizer", folder: Path, found: str) -> None:
    """Let ``tokenizer`` take the slow path on this machine from now on, because of ``found``."""
    _write(_record_of(tokenizer, folder), found)


def was_tried(tokenizer: "Tokenizer", folder: Path) -> bool:
    """Whether ``folder`` has the outcome of a trial, so that none is made any more."""
    return _record_of(tokenizer, folder).is_file()


def _record_of(tokenizer: "Tokenizer", folder: Path) -> Path:
    return folder / f"{_identity(tokenizer.directory / 'tokenizer.json')}.json"


def _identity(spec: Path) -> str:
    """Digest of everything that the outcome of a trial depends on, hex."""
    digest = hashlib.sha256(spec.read_bytes())
    for package in ("tokenizers", "numba", "llvmlite", "numpy"):
        digest.update(f"{package}=={version(package)}\n".encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _try(tokenizer: "Tokenizer", encoder: FastEncoder) -> str:
    """What differs first, in words; "" when nothing does."""
    spec = json.loads((tokenizer.directory / "tokenizer.json").read_text("utf-8"))
    specials = [token["content"] for token in spec.get("added_tokens") or []]
    texts = list(trial_texts(list(spelled_texts(spec["model"]["vocab"])), specials, NUM_TRIALS))
    tokens, counts = encoder.encode(texts, tokenizer.token_dtype)
    fast = np.split(tokens, np.cumsum(counts)[:-1])
    for text, slow, quick in zip(texts, tokenizer.encode_batch(texts), fast, strict=True):
        difference = difference_of(slow, quick)
        if difference:
            return f"of {text[:200]!r} {difference}"
    logger.info("the fast path gives the ids of tokenizers for %d trial texts", len(texts))
    return ""


def _write(record: Path, found: str) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=record.parent, encoding="utf-8", delete=False) as file:
        json.dump({"difference": found, "trials": NUM_TRIALS}, file)
    Path(file.name).replace(record)
