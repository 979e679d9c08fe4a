"""The part of checking that runs a model; imported only where one is scored, it loads torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from storage.layout import Layout
from storage.models import fetch_model
from storage.objects import ObjectStore
from tasks.judge.verdict import Health
from training.causal_model import CausalModel
from training.data.holdout import DocumentScore, HoldoutDocument
from training.evaluate import unigram_nats
from training.generate import generate
from training.model_files import load_model

_PREFIX_TOKENS = 16
_NEW_TOKENS = 48


def open_model(store: ObjectStore, layout: Layout, version: str, work_dir: Path) -> CausalModel:
    """Load ``models/<version>/``, every byte checked. Raises NotFoundError, CorruptError."""
    directory = fetch_model(store, layout.model(version), work_dir / "models" / version)
    model = load_model(directory)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def score_unigram(
    counts: npt.NDArray[np.int64], documents: Sequence[HoldoutDocument]
) -> tuple[DocumentScore, ...]:
    """What token frequencies alone make of documents; training ``counts`` ``int64[vocab_size]``."""
    return tuple(
        DocumentScore(row.document, row.cluster, nats, len(row.tokens) - 1, row.text_bytes)
        for row, nats in zip(documents, unigram_nats(counts, documents), strict=True)
    )


def probe(model: CausalModel, openings: Sequence[HoldoutDocument], *, end_id: int) -> Health:
    """Continue the openings of held-out documents greedily, and look at what comes out."""
    # Never the whole document: after its end there is nothing to continue.
    prompts = [row.tokens[:-1][:_PREFIX_TOKENS].tolist() for row in openings]
    written = generate(model, prompts, max_new_tokens=_NEW_TOKENS, end_id=end_id)
    shares = [len(set(tokens)) / len(tokens) for tokens in written if tokens]
    return Health(
        finite=all(
            _is_finite(model, prompt + tokens)
            for prompt, tokens in zip(prompts, written, strict=True)
        ),
        probes=len(written),
        empty=sum(not tokens for tokens in written),
        distinct_token_share=sum(shares) / len(shares) if shares else None,
    )


@torch.inference_mode()
def _is_finite(model: CausalModel, tokens: Sequence[int]) -> bool:
    inputs = torch.tensor([tokens], device=model.device)
    return bool(torch.isfinite(model(inputs)).all())
