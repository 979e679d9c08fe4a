"""What may be tried after a FAIL, in which order, and what it may cost."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from tasks.judge.verdict import Remedy
from training.config import FORBID_UNKNOWN

RETRAININGS: tuple[Remedy, ...] = ("more_replay", "lower_peak")
"""Those that train again; all others merge weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemedyConfig:
    """What is tried when a candidate has learned and forgotten too much."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    order: tuple[tuple[Remedy, ...], ...] = (
        ("interpolation", "breadcrumbs", "task_arithmetic", "last_k"),
        ("half_reset", "layerwise"),
        ("more_replay",),
        ("lower_peak",),
    )
    """Attempts, one after the other until one passes; an empty list tries nothing. Each makes
    models by the remedies that it lists, chooses one of them on half of the held-out items, and
    has it judged on the other half. All attempts share check.alpha evenly, so a longer list asks
    for clearer evidence. A retraining (``more_replay``, ``lower_peak``) stands alone."""
    weights: tuple[Annotated[float, Bounds(gt=0, lt=1)], ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    """Shares of the candidate that merges are tried with; the champion has the rest. What is lost
    of the old grows faster with the share than what is gained of the new, so that after a violent
    shift only a few hundredths keep both."""
    breadcrumbs_beta: Annotated[float, Bounds(ge=0, lt=1)] = 0.5
    """``breadcrumbs``: share of every matrix, the least changed, that keeps the champion's
    value."""
    breadcrumbs_gamma: Annotated[float, Bounds(ge=0, lt=0.5)] = 0.01
    """``breadcrumbs``: the same of the most changed."""
    last_checkpoints: Annotated[int, Bounds(gt=1, le=100)] = 5
    """``last_k``: checkpoints of the update that are averaged, as far as it has stored them."""
    replay_factor: Annotated[float, Bounds(gt=1, le=100)] = 2.0
    """``more_replay``: replay share of the retraining, as a multiple of the update's, and by how
    much less of it lies beside the reference; at most 0.9 of its tokens are replay."""
    peak_factor: Annotated[float, Bounds(gt=0, lt=1)] = 0.5
    """``lower_peak``: peak learning rate of the retraining, as a share of the update's."""
    max_retraining: Annotated[float, Bounds(ge=0, le=100)] = 2.0
    """Tokens of all retrainings together, as a multiple of the update's tokens."""
    max_seconds: Annotated[float, Bounds(ge=0, unit="seconds")] = 21_600.0
    """Time of all attempts together; none is begun after it, one at work is ended."""

    def __post_init__(self) -> None:
        for attempt in self.order:
            if not attempt:
                raise ValueError("order must list at least one remedy in every attempt")
            alone = [remedy for remedy in attempt if remedy in RETRAININGS]
            if alone and len(attempt) > 1:
                raise ValueError(
                    f"order must have {alone[0]} in an attempt of its own, found it beside others "
                    f"in {list(attempt)}: nothing can be chosen from before it is trained"
                )
        flat = [remedy for attempt in self.order for remedy in attempt]
        if len(flat) != len(set(flat)):
            raise ValueError(
                "order must list every remedy at most once: a second try finds the same"
            )
        if not self.weights:
            raise ValueError("weights must list at least one share of the candidate, such as 0.5")

    def level(self, alpha: float) -> float:
        """The level at which each attempt is judged, so that all together have ``alpha``."""
        return alpha / max(1, len(self.order))
