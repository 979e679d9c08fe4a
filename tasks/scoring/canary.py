"""The first gate: a few passages of every slice, in seconds, before anything dear is computed.

Gates run from cheap to dear and stop at a hard failure. The same passages are then continued by
both models, and tell how sure they are of the next token and what moved beneath the means. What a
model made of them is on record, so that a champion is looked at once and not again for every
candidate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from storage.errors import AlreadyExistsError, NotFoundError
from storage.layout import Layout
from storage.manifest import load, publish
from storage.objects import ObjectStore
from tasks.judge.health import Canary, CanarySlice, Health, Writing
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import DocumentScore, Role, SliceScores
from tasks.scoring.calibration import Calibration, calibration_of, token_change_of
from tasks.scoring.passages import Sample, sample_hash
from tasks.scoring.scores import weights_of

if TYPE_CHECKING:
    from training.causal_model import CausalModel

_LARGEST_EXPONENT = 300.0

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What one model made of every token of a sample."""

    weights: str
    """SHA-256 of the model's weights and configuration."""
    sample: str
    """SHA-256 of the passages."""
    targets: tuple[int, ...]
    """By passage."""
    nats: tuple[float | None, ...]
    """By token, all passages one after another; None for what is not a finite number."""
    confidence: tuple[float, ...]
    is_right: tuple[bool, ...]

    @property
    def calibration(self) -> Calibration | None:
        """None without a token, or when a loss is not a number."""
        if any(nats is None for nats in self.nats):
            return None
        return calibration_of(self.confidence, self.is_right)


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingRecord:
    """How one model continues the openings of a sample."""

    weights: str
    sample: str
    writing: Writing
    probes: int
    empty: int
    distinct_token_share: float | None
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """What the sample tells; ``slices`` are its scores, for a verdict that stops here."""

    health: Health
    slices: tuple[SliceScores, ...]
    numbers: Numbers = field(default_factory=Numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """Where versions are looked at from."""

    store: ObjectStore
    layout: Layout
    model: "Callable[[str], CausalModel]"
    end_id: int
    """Token that ends a document."""
    seq_len: int
    """At which the models were trained; nobody is asked to write on beyond it."""
    samples: tuple[Sample, ...]
    max_perplexity_ratio: float

    def look(self, candidate: str, champion: str | None) -> FirstLook:
        """Look at both; the continuations, which are dearer, only when nothing has collapsed.

        Safe to retry: what was found is on record.
        """
        ours = self._tokens(candidate)
        theirs = self._tokens(champion) if champion else None
        canary = canary_of(self.samples, ours, theirs, self.max_perplexity_ratio)
        slices = _slices_of(self.samples, ours, theirs)
        if canary.problem:
            finite = all(nats is not None for nats in ours.nats)
            return FirstLook(health=Health(finite=finite, canary=canary), slices=slices)
        writes = self._writing(candidate)
        health = Health(
            finite=writes.finite,
            probes=writes.probes,
            empty=writes.empty,
            distinct_token_share=writes.distinct_token_share,
            candidate=writes.writing,
            champion=self._writing(champion).writing if champion else None,
            canary=canary,
        )
        return FirstLook(health=health, slices=slices, numbers=_numbers(self.samples, ours, theirs))

    def _tokens(self, version: str) -> TokenRecord:
        from tasks.scoring.measure import look_at_tokens  # noqa: PLC0415  torch

        return self._recorded(
            version,
            "tokens",
            TokenRecord,
            lambda weights: look_at_tokens(self.model(version), self.samples, weights),
        )

    def _writing(self, version: str) -> WritingRecord:
        from tasks.scoring.measure import look_at_writing  # noqa: PLC0415  torch

        return self._recorded(
            version,
            "writing",
            WritingRecord,
            lambda weights: look_at_writing(
                self.model(version),
                self.samples,
                weights,
                end_id=self.end_id,
                seq_len=self.seq_len,
            ),
        )

    def _recorded(
        self, version: str, what: str, cls: type[_Record], compute: Callable[[str], _Record]
    ) -> _Record:
        """What is on record, of two who looked at once the first's."""
        weights = weights_of(self.store, self.layout, version)
        key = self.layout.look(weights, f"{what}-{sample_hash(self.samples)[:12]}")
        try:
            return load(self.store, key, cls)
        except NotFoundError:
            found = compute(weights)
        try:
            publish(self.store, key, found)
        except AlreadyExistsError:
            return load(self.store, key, cls)
        return found


def canary_of(
    samples: Sequence[Sample], ours: TokenRecord, theirs: TokenRecord | None, limit: float
) -> Canary:
    """Losses by slice and the ratios of perplexities. Pure."""
    slices: list[CanarySlice] = []
    for sample, ours_now, theirs_now in _by_slice(samples, ours, theirs):
        candidate, champion = _mean(ours_now), _mean(theirs_now)
        ratio = None
        if candidate is not None and champion is not None:
            ratio = math.exp(min(candidate - champion, _LARGEST_EXPONENT))
        slices.append(
            CanarySlice(
                slice=sample.slice,
                targets=len(ours_now),
                candidate_nats_per_token=candidate,
                champion_nats_per_token=champion,
                perplexity_ratio=ratio,
            )
        )
    return Canary(
        max_perplexity_ratio=limit,
        passages=sum(len(sample.documents) for sample in samples),
        slices=tuple(slices),
        new_change=_change(samples, ours, theirs, "new"),
    )


def _change(
    samples: Sequence[Sample], ours: TokenRecord, theirs: TokenRecord | None, role: Role
) -> float | None:
    """Candidate minus champion over all passages of ``role``; None where it is not known."""
    parts = [part for part in _by_slice(samples, ours, theirs) if part[0].role == role]
    candidate = _mean([nats for _, found, _ in parts for nats in found])
    champion = _mean([nats for _, _, found in parts for nats in found])
    return None if candidate is None or champion is None else candidate - champion


def _by_slice(
    samples: Sequence[Sample], ours: TokenRecord, theirs: TokenRecord | None
) -> list[tuple[Sample, list[float | None], list[float | None]]]:
    """Every sample with both models' nats of its tokens; none of a champion that is not there."""
    parts: list[tuple[Sample, list[float | None], list[float | None]]] = []
    start = 0
    for sample in samples:
        end = start + sum(len(document.tokens) - 1 for document in sample.documents)
        of_champion = list(theirs.nats[start:end]) if theirs is not None else []
        parts.append((sample, list(ours.nats[start:end]), of_champion))
        start = end
    return parts


def _slices_of(
    samples: Sequence[Sample], ours: TokenRecord, theirs: TokenRecord | None
) -> tuple[SliceScores, ...]:
    """The sample as slices to judge, when nothing more is scored."""
    return tuple(
        SliceScores(
            name=sample.slice,
            domain=sample.domain,
            snapshot=sample.snapshot,
            role=sample.role,
            is_guarded=sample.is_guarded,
            candidate=_scores(sample, ours_now),
            champion=_scores(sample, theirs_now) if theirs is not None else None,
        )
        for sample, ours_now, theirs_now in _by_slice(samples, ours, theirs)
    )


def _scores(sample: Sample, nats: Sequence[float | None]) -> tuple[DocumentScore, ...]:
    scores: list[DocumentScore] = []
    start = 0
    for document in sample.documents:
        end = start + len(document.tokens) - 1
        known = [math.nan if value is None else value for value in nats[start:end]]
        total = math.fsum(known) if all(map(math.isfinite, known)) else math.nan
        # How many bytes the cut passage had is not known: no bits per byte.
        scores.append(DocumentScore(document.document, document.cluster, total, end - start, 0))
        start = end
    return tuple(scores)


def _numbers(samples: Sequence[Sample], ours: TokenRecord, theirs: TokenRecord | None) -> Numbers:
    """Calibration of both, and what moved on old text."""
    if theirs is None:
        return Numbers(calibration=ours.calibration)
    old = [part for part in _by_slice(samples, ours, theirs) if part[0].role == "old"]
    candidate = np.array([nats for _, found, _ in old for nats in found], dtype=np.float64)
    champion = np.array([nats for _, _, found in old for nats in found], dtype=np.float64)
    is_known = bool(np.isfinite(candidate).all() and np.isfinite(champion).all())
    return Numbers(
        calibration=ours.calibration,
        champion_calibration=theirs.calibration,
        token_change=token_change_of(candidate, champion) if is_known else None,
    )


def _mean(nats: Sequence[float | None]) -> float | None:
    known = [value for value in nats if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(nats) else None
