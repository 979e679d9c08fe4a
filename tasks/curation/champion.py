"""The lineage's model in use, as documents are scored by it: a place, opened by who needs it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.head import Head
from storage.layout import Layout
from storage.models import fetch_model, read_model_manifest, weights_hash
from storage.objects import ObjectStore, open_store
from tasks.curation.annotation_table import Found
from tasks.curation.perplexity import TOKENS

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Champion:
    """A published model; pickled it is where it lies, not its weights.

    The process that first scores with it opens it, every byte checked, and has it until it lets the
    champion go.
    """

    store_uri: str
    model: str
    """Prefix of the model."""
    tokenizer: str
    """Prefix of the tokenizer."""
    version: str
    weights: str
    """SHA-256 of its weights and configuration."""
    work_dir: Path
    """For local copies, on whatever machine; created there."""
    seconds: float = field(default=0.0, compare=False)
    """Of processors, that this process has spent on opening it and on scoring."""
    _opened: "tuple[CausalModel, Tokenizer] | None" = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> "tuple[partial[Champion], tuple[()]]":
        fields = ("store_uri", "model", "tokenizer", "version", "weights", "work_dir")
        return partial(Champion, **{name: getattr(self, name) for name in fields}), ()

    @property
    def identity(self) -> dict[str, str]:
        """What decides its numbers, and what a person calls it."""
        return {"version": self.version, "weights": self.weights}

    def score(self, texts: Sequence[str], most_tokens: int) -> NDArray[np.float64]:
        """``float64[texts, 3]``: nats, tokens and bytes of the beginning of each text.

        On the processor, in float32; no text's numbers depend on another's.

        Args:
            texts: Any.
            most_tokens: Of each text; fewer where the model's window is shorter.

        Raises:
            StorageError: The model is missing or damaged.
            ValueError: It cannot be computed.
        """
        import torch  # noqa: PLC0415  only where a model scores

        from training.beginnings import beginnings_of, nats_of_beginnings  # noqa: PLC0415  torch

        began_at = time.process_time()
        model, tokenizer = self._open()
        most_tokens = min(most_tokens, model.config.max_position_embeddings)
        beginnings = beginnings_of(tokenizer, texts, most_tokens=most_tokens)
        nats = nats_of_beginnings(
            model, beginnings, start_id=tokenizer.start_id, num_threads=torch.get_num_threads()
        )
        self.seconds += time.process_time() - began_at
        rows = [
            (sum_of_nats, len(each.tokens), each.text_bytes)
            for sum_of_nats, each in zip(nats, beginnings, strict=True)
        ]
        return np.array(rows, np.float64).reshape(-1, 3)

    def _open(self) -> "tuple[CausalModel, Tokenizer]":
        from training.model_files import load_model  # noqa: PLC0415  torch
        from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  tokenizers

        if self._opened is None:
            store, folder = open_store(self.store_uri), self.work_dir.absolute()
            tokenizer = fetch_tokenizer(store, self.tokenizer, folder / self.tokenizer)
            model = load_model(fetch_model(store, self.model, folder / self.model))
            self._opened = model, tokenizer
        return self._opened


def champion_of(
    store: ObjectStore, layout: Layout, head: Head | None, work_dir: Path
) -> Champion | None:
    """The champion, not opened yet; None where the lineage has none.

    Raises:
        NotFoundError: Its model is not in the store.
    """
    if head is None or head.champion is None or head.tokenizer is None:
        return None
    model = layout.model(head.champion)
    return Champion(
        store_uri=store.uri,
        model=model,
        tokenizer=head.tokenizer,
        version=head.champion,
        weights=weights_hash(read_model_manifest(store, model)),
        work_dir=work_dir,
    )


class Scoring:
    """What the champion reads for one refresh, and what that costs.

    Args:
        champion: None: there is none.
        domains: Whose rules ask for it.
    """

    def __init__(self, champion: Champion | None, domains: Sequence[str]) -> None:
        self._champion, self._domains = champion, domains
        self._documents = self._tokens = 0
        self._seconds = 0.0

    @property
    def identity(self) -> dict[str, str]:
        """``Champion.identity``; empty without one."""
        return self._champion.identity if self._champion is not None else {}

    @property
    def warnings(self) -> list[str]:
        """That nothing was scored although rules ask for it."""
        if not self._domains or self._champion is not None:
            return []
        return [
            f"perplexity of {', '.join(self._domains)}: the lineage has no champion yet, so "
            "nothing was scored and no threshold on it has dropped anything"
        ]

    def add(self, found: Sequence[Found], seconds: float) -> None:
        """Count a batch that took so long."""
        for _, numbers in found:
            tokens = numbers.get(TOKENS, np.empty(0, np.int64))
            self._documents += int((tokens > 0).sum())
            self._tokens += int(tokens.sum())
        self._seconds += seconds

    def log(self) -> None:
        """Say what it was and what it took, once everything is read."""
        if self._champion is not None:
            logger.info(
                f"perplexity: {self._champion.version} has read {self._tokens:,} tokens of "
                f"{self._documents:,} documents in {self._seconds:,.1f} s of processors "
                f"({self._documents / max(self._seconds, 1e-9):,.0f} documents/s of a core)"
            )
