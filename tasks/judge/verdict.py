"""The values around a verdict: the scores that go in, the report that comes out. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import Bounds
from tasks.judge.health import MAX_PERPLEXITY_RATIO, Health
from tasks.judge.numbers import Numbers
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

    That is the first, until a later one is shown to be better. So small losses cannot add up."""
    max_accuracy_loss: Annotated[float, Bounds(ge=0, le=1, unit="share of items")] = 0.05
    """Fall of the accuracy on any guarded task, at most, against the model in use.

    Where two models differ on a tenth of the items, 250 of them show this."""
    max_negative_flips: Annotated[float, Bounds(ge=0, le=1, unit="share of items")] = 0.1
    """Items of a guarded task that the model in use has right and the candidate wrong, at most.

    Two equally good models flip too, in both directions, so a candidate need not be shown to keep
    within this, and fails only when it is shown to exceed it. 0.03 is strict; 1 asks nothing."""
    alpha: Annotated[float, Bounds(ge=0.001, le=0.2)] = 0.05
    """Level of each one-sided bound, and of all evidence for a FAIL together."""
    max_perplexity_ratio: Annotated[float, Bounds(gt=1)] = MAX_PERPLEXITY_RATIO
    """Perplexity on a few passages of any slice, as a multiple of that of the model in use, above
    which a candidate that has not learned the new data either has collapsed: it is refused at once,
    and nothing dearer is computed."""
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
    """Distance within the margin that would have been shown with a probability of 80 %."""
    smallest_detectable_violation: float | None = None
    """Distance beyond the margin that would have been, in spite of the correction over all tests.
    """
    passed: bool = False
    violated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An item that the other model had right and the candidate has wrong."""

    item: str
    before: str
    """The other model's answer."""
    now: str
    """The candidate's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """Both models on the items of one task; all shares are of its items.

    The difference is candidate minus the other: above 0 is better, and it is exactly the positive
    flips minus the negative ones (MUSCLE).
    """

    task: str
    against: str
    items: int
    clusters: int
    candidate_accuracy: float | None
    """None where there is no item."""
    champion_accuracy: float | None
    """Of the model named in ``against``."""
    difference: float | None
    lower_bound: float | None = None
    """One-sided, at ``alpha``: the bound that is held against the margin. None where the clusters
    do not determine one."""
    upper_bound: float | None = None
    """One-sided, at ``alpha``."""
    margin: float | None = None
    """Largest tolerated fall, above 0; None where the task informs only."""
    p_met: float | None = None
    """p-value of "the fall is at least the margin": small means shown to be met. Not corrected."""
    p_violated: float | None = None
    """p-value of "the margin is kept": small means shown to be exceeded. Holm-corrected."""
    smallest_detectable_effect: float | None = None
    """Distance within the margin that would have been shown with a probability of 80 %."""
    negative_flips: int = 0
    """Items right before, wrong now."""
    positive_flips: int = 0
    """Items wrong before, right now."""
    negative_flips_upper: float | None = None
    """One-sided bound, at ``alpha``, of the share of negative flips."""
    max_negative_flips: float | None = None
    """Largest tolerated share; None where the task informs only."""
    p_flips_violated: float | None = None
    """p-value of "the share of negative flips is tolerated". Holm-corrected."""
    backward_trust: float | None = None
    """Of what the other model had right, the share that is right still; None when it had nothing.
    """
    examples: tuple[Flip, ...] = ()
    """Some negative flips, those first where the right answer lost most nats."""
    why_unguarded: str = ""
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

    remedy: Remedy
    settings: dict[str, float]
    """By name, such as ``weight``."""
    gain: float | None
    """Model minus champion on all new data, nats per token: below 0 is better. None: unknown."""
    worst_loss: float | None
    """The largest difference on a guarded old domain, nats per token."""
    chance: float | None
    """Estimate of the probability that all requirements are shown to be met on the half that
    judges. The largest is chosen. None: collapsed, or without a bound."""
    is_hopeful: bool = False
    """Every estimate, without its noise, keeps its margin: only such a model is judged."""
    problem: str = ""
    """Why the model was not scored, such as a collapse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyAttempt:
    """One try to repair a candidate that has failed: of all models that it makes, one is judged."""

    tried: tuple[Remedy, ...]
    """What it chose from."""
    points: tuple[RemedyPoint, ...]
    """Everything that it chose from, in the order in which it was made; none of a retraining."""
    remedy: Remedy | None
    """What it chose; None when nothing was worth judging."""
    settings: dict[str, float]
    """Those chosen; empty when none was."""
    version: str
    """Name of the model that it brought to judgement; "" when none."""
    update: str
    """Under which that model's evidence is kept once it is published, and a retraining was run."""
    verdict: Outcome | None
    """On the half of the items that judges, at ``alpha``; None when nothing was brought there."""
    reason: str
    """One sentence: of the verdict, or why there is none."""
    alpha: float
    """Level of every bound of the judgement: that of all attempts, shared evenly."""
    rows: tuple[DomainRow, ...] = ()
    """Of the judgement."""
    trained_tokens: int = 0
    scored_tokens: int = 0
    """Held-out tokens that models were run on."""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """In words, such as ``interpolation, weight 0.4``."""
        what = " or ".join(self.tried) if self.remedy is None else self.remedy
        named = (f"{name} {value:g}" for name, value in self.settings.items())
        return ", ".join((what.replace("_", " "), *named))


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
    numbers: Numbers | None = None
    """What is shown beside the verdict; no verdict depends on it."""
    task_rows: tuple[TaskRow, ...] = ()
    """Right and wrong answers, by name of the task."""
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
