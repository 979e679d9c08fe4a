"""The part of checking that runs a model; imported only where one is scored, it loads torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from storage.layout import Layout
from storage.models import fetch_model
from storage.objects import ObjectStore
from tasks.judge.health import writing_of
from tasks.scoring.canary import TokenRecord, WritingRecord
from tasks.scoring.passages import Sample, sample_hash
from training.causal_model import CausalModel
from training.data.holdout import DocumentScore, HoldoutDocument
from training.evaluate import unigram_nats
from training.generate import generate
from training.model_files import load_model
from training.token_scores import score_tokens

_PROBES = 32
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


def look_at_tokens(model: CausalModel, samples: Sequence[Sample], weights: str) -> TokenRecord:
    """What the model makes of every token of the samples."""
    passages = [tokens for sample in samples for tokens in sample.passages]
    scores = score_tokens(model, passages)
    return TokenRecord(
        weights=weights,
        sample=sample_hash(samples),
        targets=tuple(len(found.nats) for found in scores),
        nats=tuple(
            float(nats) if np.isfinite(nats) else None for found in scores for nats in found.nats
        ),
        confidence=tuple(
            float(np.nan_to_num(sure)) for found in scores for sure in found.confidence
        ),
        is_right=tuple(bool(right) for found in scores for right in found.is_right),
    )


def look_at_writing(
    model: CausalModel, samples: Sequence[Sample], weights: str, *, end_id: int, seq_len: int
) -> WritingRecord:
    """Continue openings of the samples greedily, and look at what comes out."""
    passages = [tokens for sample in samples for tokens in sample.passages]
    # Never the whole document: after its end there is nothing to continue.
    prefix = min(_PREFIX_TOKENS, seq_len // 2)
    new_tokens = min(_NEW_TOKENS, seq_len - prefix)
    openings = [tokens[:-1][:prefix].tolist() for tokens in passages]
    prompts = openings[:: -(-len(openings) // _PROBES)]
    written = generate(model, prompts, max_new_tokens=new_tokens, end_id=end_id)
    shares = [len(set(tokens)) / len(tokens) for tokens in written if tokens]
    return WritingRecord(
        weights=weights,
        sample=sample_hash(samples),
        # What was not cut off had come to its end.
        writing=writing_of(written, [len(tokens) < new_tokens for tokens in written]),
        probes=len(written),
        empty=sum(not tokens for tokens in written),
        distinct_token_share=sum(shares) / len(shares) if shares else None,
        finite=all(
            _is_finite(model, prompt + tokens)
            for prompt, tokens in zip(prompts, written, strict=True)
        ),
    )


@torch.inference_mode()
def _is_finite(model: CausalModel, tokens: Sequence[int]) -> bool:
    inputs = torch.tensor([tokens], device=model.device)
    return bool(torch.isfinite(model(inputs)).all())
