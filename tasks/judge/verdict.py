"""The values around a verdict: the scores that go in, the report that comes out. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import Bounds
from training.config import FORBID_UNKNOWN
from training.data.holdout import DocumentScore
from training.items.score import ItemScore

Role = Literal["old", "new"]
Outcome = Literal["PASS", "FAIL", "AMBIGUOUS"]
Test = Literal["gain", "loss", "cumulative", "shown"]

ALL_NEW = "new data"
"""In the place of a domain: all new slices together; no real domain's name has a space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """What a candidate must gain, and what it may lose: fixed tolerances, not noise levels."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    max_loss_nats: Annotated[float, Bounds(ge=0, unit="nats per token")] = 0.05
    """Rise of the held-out loss on any old domain, at most, against the model in use."""
    min_gain_nats: Annotated[float, Bounds(ge=0, unit="nats per token")] = 0.02
    """Fall of the held-out loss on the new data, more than this, against the model in use."""
    first_version_gain_nats: Annotated[float, Bounds(ge=0, unit="nats per token")] = 0.5
    """First version of a lineage from nothing: how far its loss must be below a unigram model's."""
    max_cumulative_loss_nats: Annotated[float, Bounds(ge=0, unit="nats per token")] = 0.1
    """Rise of the held-out loss on any old domain, at most, against the best version ever.

    So small losses cannot add up."""
    alpha: Annotated[float, Bounds(ge=0.001, le=0.2)] = 0.05
    """Level of each one-sided bound, and of all evidence for a FAIL together."""
    judged_tokens: Annotated[int, Bounds(ge=200_000, unit="tokens")] = 1_000_000
    """Held-out tokens that each model is scored on at most, of all old text together and again of
    all new text. Fewer are taken where they show far smaller changes than the margins."""
    accept_unguarded: bool = False
    """An imported base without a reference may PASS, although nobody sees what it forgets."""

    def __post_init__(self) -> None:
        if self.max_cumulative_loss_nats < self.max_loss_nats:
            raise ValueError(
                f"max_cumulative_loss_nats must be at least max_loss_nats "
                f"{self.max_loss_nats:g}, got "
                f"{self.max_cumulative_loss_nats:g}: raise it, or lower max_loss_nats"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierScores:
    """A slice's scores by an earlier version of the lineage."""

    version: str
    scores: tuple[DocumentScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceScores:
    """One slice of the suite, the holdout of a domain of a snapshot, with all scores on it."""

    name: str
    """``<domain>@<snapshot>``."""
    domain: str
    snapshot: str
    role: Role
    candidate: tuple[DocumentScore, ...]
    champion: tuple[DocumentScore, ...] | None = None
    """None for the first version of a lineage that starts from nothing."""
    unigram: tuple[DocumentScore, ...] | None = None
    """By the token frequencies of the training data; what a first version is compared with."""
    earlier: tuple[EarlierScores, ...] = ()
    """Of published versions before the champion; the best of them bounds the cumulative loss."""
    is_guarded: bool = True
    """False: an old slice that informs; it is shown, and no verdict depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """One task of the suite with both models' answers to the same items."""

    task: str
    candidate: tuple[ItemScore, ...]
    champion: tuple[ItemScore, ...]
    is_guarded: bool = True
    """False: the task informs; it is shown, and no verdict depends on it."""
    why_unguarded: str = ""
    """As a person should read it: at chance level, or trained on already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the candidate still writes: greedy continuations of some held-out openings."""

    finite: bool
    """All logits of all continuations were numbers."""
    probes: int = 0
    """Continuations tried."""
    empty: int = 0
    """Continuations that ended before their first token."""
    distinct_token_share: float | None = None
    """Distinct tokens over all tokens, mean over continuations; low is repetition. Not judged."""

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" when nothing is."""
        if not self.finite:
            return "the candidate's logits are not finite numbers"
        if self.probes and self.empty == self.probes:
            return f"the candidate writes nothing: all {self.probes} continuations end at once"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRow:
    """One comparison of the candidate with one other model, on one domain or on all new data.

    Differences are candidate minus the other, in nats per token: below 0 is better. A requirement
    is met when the upper bound of the difference does not reach over ``margin``.
    """

    domain: str
    role: Role
    test: Test
    """``shown`` rows are for people; no verdict depends on them."""
    against: str
    """Version compared with, or ``unigram``."""
    documents: int
    clusters: int
    targets: int
    candidate_nats_per_token: float | None
    """None where the scores are not finite or there is no target."""
    champion_nats_per_token: float | None
    """Of the model named in ``against``."""
    candidate_bits_per_byte: float | None
    champion_bits_per_byte: float | None
    difference: float | None
    lower_bound: float | None = None
    """One-sided, at ``alpha``; None where the clusters do not determine one."""
    upper_bound: float | None = None
    """One-sided, at ``alpha``: the bound that is held against the margin."""
    margin: float | None = None
    """Largest tolerated difference: minus the smallest gain, or the largest loss."""
    p_met: float | None = None
    """p-value of "the margin is exceeded": small means shown to be met. Not corrected."""
    p_violated: float | None = None
    """p-value of "the margin is kept": small means shown to be exceeded. Holm-corrected."""
    smallest_detectable_effect: float | None = None
    """Distance from the margin that would have been shown with a probability of 80 %."""
    passed: bool = False
    violated: bool = False


Remedy = Literal[
    "interpolation",
    "breadcrumbs",
    "task_arithmetic",
    "last_k",
    "half_reset",
    "layerwise",
    "more_replay",
    "lower_peak",
]
"""What is tried after a FAIL; the last two train again, the others merge weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyPoint:
    """One setting of a remedy, as the half of the items that selects saw it."""

    settings: dict[str, float]
    """By name, such as ``weight``."""
    gain: float | None
    """Model minus champion on all new data, nats per token: below 0 is better. None: unknown."""
    worst_loss: float | None
    """The largest difference on a guarded old domain, nats per token."""
    slack: float | None
    """Distance of the worst upper bound from its margin, nats per token: below 0, some requirement
    is not shown to be met. The largest is chosen. None: collapsed, or without a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyAttempt:
    """One try to repair a candidate that has failed."""

    remedy: Remedy
    version: str
    """Name of the model that it made; "" when none was worth judging."""
    settings: dict[str, float]
    """Those chosen; empty when none was."""
    points: tuple[RemedyPoint, ...]
    """Everything that was chosen from, in the order in which it was tried."""
    verdict: Outcome | None
    """On the half of the items that judges, at ``alpha``; None when it was not brought there."""
    reason: str
    """One sentence: of the verdict, or why there is none."""
    alpha: float
    """Level of every bound of the judgement: that of all attempts, shared evenly."""
    rows: tuple[DomainRow, ...] = ()
    """Of the judgement."""
    trained_tokens: int = 0
    scored_tokens: int = 0
    """Held-out tokens that models were run on, champion and candidate left out."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReport:
    """A verdict with its evidence; written as ``verdict.json``."""

    verdict: Outcome
    reason: str
    """One sentence."""
    reasons: tuple[str, ...]
    """Everything that speaks for the verdict or limits it, most important first."""
    candidate: str
    champion: str | None
    rows: tuple[DomainRow, ...]
    health: Health
    config: CheckConfig
    resamples: int
    """Bootstrap resamples behind every bound."""
    suite: str = ""
    """Version of the suite that was scored."""
    remedies: tuple[RemedyAttempt, ...] = ()
    """What was tried after a FAIL, in this order."""
    remedy_of: str = ""
    """Version whose failure the candidate repairs; it was then judged on half of the items."""


def total_nats(scores: Sequence[DocumentScore]) -> float:
    """Sum over documents; the same for every order of them. NaN or infinite when a score is."""
    if any(not math.isfinite(score.nats) for score in scores):
        return math.nan
    return math.fsum(score.nats for score in scores)


def nats_per_token(scores: Sequence[DocumentScore]) -> float | None:
    """Held-out loss of one model; None where there is no target or a score is not finite."""
    return _quotient(total_nats(scores), sum(score.targets for score in scores))


def bits_per_byte(scores: Sequence[DocumentScore]) -> float | None:
    """Held-out loss that does not depend on the tokenizer; None as for ``nats_per_token``."""
    return _quotient(total_nats(scores) / math.log(2), sum(score.text_bytes for score in scores))


def _quotient(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator > 0 and math.isfinite(numerator) else None
