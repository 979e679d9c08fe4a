"""Which of several merged models is worth judging, by the half of the items that selects.

Nothing here looks at the other half: whatever is chosen, a bound there keeps its promise.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from tasks.judge.decide import decide
from tasks.judge.halves import half_of_slices, selecting_clusters
from tasks.judge.verdict import (
    CheckConfig,
    DocumentScore,
    DomainRow,
    Health,
    Remedy,
    RemedyPoint,
    SliceScores,
    nats_per_token,
)
from tasks.remedy.merges import Family, Settings, merge_into, open_family, settings_of
from tasks.scoring.compute import Desk
from tasks.scoring.panel import Panel

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.data.holdout import HoldoutDocument
    from training.data.holdout_folder import HoldoutFolder
    from training.merge.parents import Parent

logger = logging.getLogger(__name__)

_CANARY_DOCUMENTS = 8

_LEAST_NOISE_NATS = 1e-6
"""Of a model that differs in no document, and so has no noise."""

_Scores = tuple[DocumentScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectingHalf:
    """The items that select, with what the champion made of them."""

    slices: tuple[SliceScores, ...]
    folders: "tuple[HoldoutFolder, ...]"
    """Where the documents of each slice lie, and how they are framed."""
    documents: "tuple[tuple[HoldoutDocument, ...], ...]"
    """Of each slice."""

    @property
    def tokens(self) -> int:
        """Targets that scoring a model on all of them takes."""
        return sum(score.targets for item in self.slices for score in item.candidate)


@dataclass(frozen=True, slots=True)
class Choice:
    """What an attempt has made and looked at."""

    points: tuple[RemedyPoint, ...]
    best: RemedyPoint | None
    """None when none keeps old and new even by its estimates."""
    scored_tokens: int


def read_selecting_half(
    family: Family, slices: Sequence[SliceScores], panel: Panel
) -> SelectingHalf:
    """The half of ``slices`` that selects, with its documents.

    Args:
        family: Where everything lies.
        slices: The champion beside itself, on all items that a verdict rests on: what a candidate
            that has collapsed made of them was never computed.
        panel: The same, before they were scored.

    Raises:
        CorruptError: A shard is damaged.
    """
    desk = Desk(family.store, family.layout, family.work_dir)
    selecting = selecting_clusters(slices)
    # A domain that is too small to select anything is not asked for here, but judged.
    halves = tuple(part for part in half_of_slices(slices, "select") if part.candidate)
    judged = {item.item.name: item for item in panel.slices}
    items = [judged[part.name] for part in halves]
    return SelectingHalf(
        slices=halves,
        folders=tuple(desk.folder(item.item) for item in items),
        documents=tuple(
            tuple(row for row in desk.scored_documents(item) if row.cluster in selecting)
            for item in items
        ),
    )


def choose(
    family: Family, remedies: Sequence[Remedy], half: SelectingHalf, config: CheckConfig
) -> Choice:
    """Make every model that ``remedies`` ask for, score it, and choose the best.

    The best is the one that is likeliest to be shown to keep every margin. One model is in memory
    and on disk at a time. Safe to repeat: the same answer.

    Args:
        family: Champion, candidate and what they are kept in.
        remedies: Merges.
        half: From ``read_selecting_half``.
        config: Margins, and the level of the bounds.
    """
    points: list[RemedyPoint] = []
    scored_tokens = 0
    for remedy in remedies:
        settings = settings_of(family, remedy)
        try:
            parents = open_family(family, remedy) if settings else []
        except ValueError as error:
            # Another remedy has other parents; this one is told, and left out.
            points.append(_unscored(remedy, {}, str(error)))
            continue
        for setting in settings:
            point, tokens = _tried(family, remedy, setting, parents, half, config)
            points.append(point)
            scored_tokens += tokens
            logger.info(_told(point))
    best = max(
        (point for point in points if point.is_hopeful),
        key=lambda point: -math.inf if point.chance is None else point.chance,
        default=None,
    )
    return Choice(tuple(points), best, scored_tokens)


def _tried(
    family: Family,
    remedy: Remedy,
    settings: Settings,
    parents: "Sequence[Parent]",
    half: SelectingHalf,
    config: CheckConfig,
) -> tuple[RemedyPoint, int]:
    """One model on the half that selects, and the tokens that it was run on."""
    from training.model_files import load_model  # noqa: PLC0415  torch

    directory = family.work_dir / "merged"
    merge_into(family, remedy, settings, parents, directory)
    model = load_model(directory)
    problem, tokens = _collapse(model, half, math.log(config.max_perplexity_ratio))
    point = _unscored(remedy, settings, problem)
    if not problem:
        point = _weighed(point, half, _scored(model, half), config, family)
        tokens += half.tokens
    shutil.rmtree(directory)
    return point, tokens


def _unscored(remedy: Remedy, settings: Settings, problem: str) -> RemedyPoint:
    return RemedyPoint(
        remedy=remedy, settings=settings, gain=None, worst_loss=None, chance=None, problem=problem
    )


def _collapse(model: "CausalModel", half: SelectingHalf, most_nats: float) -> tuple[str, int]:
    """What is wrong by a few documents of every slice, "" when nothing is; and their targets.

    ``most_nats`` is how far a loss per token may lie above the champion's.
    """
    few = replace(half, documents=tuple(rows[:_CANARY_DOCUMENTS] for rows in half.documents))
    tokens = 0
    for part, scores in zip(half.slices, _scored(model, few), strict=True):
        names = {score.document for score in scores}
        tokens += sum(score.targets for score in scores)
        if not scores:
            continue
        known = [score for score in part.champion or () if score.document in names]
        loss, before = nats_per_token(scores), nats_per_token(known)
        if loss is None or (before is not None and loss > before + most_nats):
            found = "no number of" if loss is None else f"{loss:.2f}"
            return f"collapsed: {found} nats per token on {part.domain}", tokens
    return "", tokens


def _scored(model: "CausalModel", half: SelectingHalf) -> list[_Scores]:
    from training.evaluate import score_documents  # noqa: PLC0415  torch

    return [
        tuple(
            score_documents(
                model,
                rows,
                start_id=folder.start_id,
                end_id=folder.end_id,
                seq_len=folder.seq_len,
            )
        )
        for folder, rows in zip(half.folders, half.documents, strict=True)
    ]


def _weighed(
    point: RemedyPoint,
    half: SelectingHalf,
    scores: Sequence[_Scores],
    config: CheckConfig,
    family: Family,
) -> RemedyPoint:
    slices = [replace(part, candidate=mine) for part, mine in zip(half.slices, scores, strict=True)]
    report = decide(
        slices,
        config,
        health=Health(finite=True),
        candidate=point.remedy,
        champion=family.champion,
    )
    tested = [row for row in report.rows if row.margin is not None]
    gains = [row.difference for row in tested if row.test == "gain"]
    losses = [row.difference for row in tested if row.test == "loss"]
    chances = [chance_to_pass(row, config.alpha) for row in tested]
    return replace(
        point,
        gain=gains[0] if gains else None,
        worst_loss=max((loss for loss in losses if loss is not None), default=None),
        chance=_all_of(chances),
        is_hopeful=bool(gains) and all(_is_met(row) for row in tested),
    )


def _is_met(row: DomainRow) -> bool:
    """Whether the estimate, without its noise, keeps the margin."""
    if row.difference is None or row.margin is None:
        return False
    return row.difference < row.margin if row.test == "gain" else row.difference <= row.margin


def chance_to_pass(row: DomainRow, alpha: float) -> float | None:
    """Of a requirement to be shown on the other half, which has noise of its own; None: unknown.

    Not the distance of the bound from the margin: the noisiest old domain would decide alone, and
    the least change, whose gain cannot be shown, would be the best.
    """
    if row.upper_bound is None or row.margin is None or row.difference is None:
        return None
    normal = NormalDist()
    # The bound lies so many standard errors away, if it were exactly normal.
    quantile = normal.inv_cdf(1 - alpha)
    noise = max(row.upper_bound - row.difference, _LEAST_NOISE_NATS)
    room = (row.margin - row.difference) / noise - 1
    return normal.cdf(quantile * room / math.sqrt(2))


def _all_of(chances: Sequence[float | None]) -> float | None:
    known = [chance for chance in chances if chance is not None]
    return math.prod(known) if known and len(known) == len(chances) else None


def _told(point: RemedyPoint) -> str:
    named = ", ".join(f"{name} {value:g}" for name, value in point.settings.items())
    what = f"{point.remedy.replace('_', ' ')}, {named}"
    if point.problem:
        return f"{what}: {point.problem}"
    loss = "no old domain" if point.worst_loss is None else f"old {point.worst_loss:+.3f} at most"
    gain = "no new text" if point.gain is None else f"new {point.gain:+.3f}"
    return f"{what}: {gain}, {loss} nats per token"
