"""The rows of a verdict that rest on losses: a domain, or all new text, against another model."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.judge.bootstrap import sample_ratio
from tasks.judge.verdict import (
    ALL_NEW,
    CheckConfig,
    DocumentScore,
    DomainRow,
    EarlierScores,
    Role,
    SliceScores,
    Test,
    bits_per_byte,
    nats_per_token,
)

_SHOWN_BETTER = 0.05
"""Level at which a version is shown to be better than the best before it."""
_FEW_RESAMPLES = 400
"""Enough for that level."""

Scores = tuple[DocumentScore, ...]
Pair = tuple[Scores, Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row before it is computed: the slices of a domain, pooled, against one other model."""

    domain: str
    role: Role
    test: Test
    against: str
    margin: float | None
    pairs: tuple[Pair, ...]


def comparisons_of(
    slices: Sequence[SliceScores], config: CheckConfig, champion: str | None
) -> list[Comparison]:
    """Everything that is to be compared, tested or only shown.

    Raises:
        ValueError: A model was scored on other documents than the candidate, or scores are missing.
    """
    new = [item for item in slices if item.role == "new"]
    old = [item for item in slices if item.role == "old"]
    margin = -(config.min_gain_nats if champion else config.first_version_gain_nats)
    against = champion or "unigram"
    comparisons: list[Comparison] = []
    if new:
        pairs = tuple(_pair(item, against) for item in new)
        comparisons.append(
            Comparison(
                domain=ALL_NEW, role="new", test="gain", against=against, margin=margin, pairs=pairs
            )
        )
    for role, items in (("new", new), ("old", old)):
        for domain, members in _by_domain(items):
            # Without a champion nothing can be lost yet: old slices (a reference) are shown, not
            # guarded.
            is_guarded = role == "old" and all(item.is_guarded for item in members)
            test: Test = "loss" if is_guarded and champion else "shown"
            comparisons.append(
                Comparison(
                    domain=domain,
                    role="old" if role == "old" else "new",
                    test=test,
                    against=against,
                    margin=config.max_loss_nats if test == "loss" else None,
                    pairs=tuple(_pair(item, against) for item in members),
                )
            )
    if champion:
        for domain, members in _by_domain([item for item in old if item.is_guarded]):
            best = _best_ever(domain, members, config.max_cumulative_loss_nats)
            comparisons.extend([best] if best else [])
    return comparisons


def _by_domain(slices: Sequence[SliceScores]) -> list[tuple[str, list[SliceScores]]]:
    groups: defaultdict[str, list[SliceScores]] = defaultdict(list)
    for item in slices:
        groups[item.domain].append(item)
    return sorted(groups.items())


def _pair(item: SliceScores, against: str) -> Pair:
    """The candidate's and the other model's scores of one slice, of the same documents."""
    other = item.unigram if against == "unigram" else item.champion
    if other is None:
        raise ValueError(
            f"slice {item.name} has no scores of {against}: score it on the same suite before "
            f"deciding"
        )
    return _matched(item.name, item.candidate, against, other)


def _matched(
    name: str,
    candidate: tuple[DocumentScore, ...],
    against: str,
    other: tuple[DocumentScore, ...],
) -> Pair:
    ours, theirs = (
        # Not a set: a document that a slice holds twice must be scored twice by both.
        Counter((score.document, score.cluster, score.targets) for score in scores)
        for scores in (candidate, other)
    )
    if ours != theirs:
        different = sorted({key[0] for key in (ours - theirs) + (theirs - ours)})
        raise ValueError(
            f"slice {name}: the candidate and {against} were not scored on the same documents, "
            f"{len(different)} differ, first {different[0]!r}: score both again on one suite and "
            f"tokenizer"
        )
    return candidate, other


def _best_ever(domain: str, members: Sequence[SliceScores], margin: float) -> Comparison | None:
    """The comparison with the best version before the champion; None without any.

    The best is settled by the record alone: the first version, until a later one is *shown* to be
    better on what both were scored on. The version with the lowest loss would be one that chance
    favours, the more so the more versions there are, and nobody could be shown to be as good.
    Slices that the best version does not know are compared with the first that does. Versions are
    as old as their names count them.
    """
    best: dict[str, EarlierScores] = {}
    for version in sorted({known.version for item in members for known in item.earlier}, key=_age):
        found = {
            item.name: known
            for item in members
            for known in item.earlier
            if known.version == version
        }
        pairs = [
            _matched(name, known.scores, best[name].version, best[name].scores)
            for name, known in found.items()
            if name in best
        ]
        is_better = bool(pairs) and _is_shown_better(pairs)
        best |= {name: known for name, known in found.items() if is_better or name not in best}
    if not best:
        return None
    slices_by_version = Counter(known.version for known in best.values())
    return Comparison(
        domain=domain,
        role="old",
        test="cumulative",
        against=max(slices_by_version, key=lambda name: (slices_by_version[name], name)),
        margin=margin,
        pairs=tuple(
            _matched(item.name, item.candidate, best[item.name].version, best[item.name].scores)
            for item in members
            if item.name in best
        ),
    )


def _age(version: str) -> tuple[int, str]:
    number = re.search(r"\d+", version)
    return (int(number[0]) if number else 0, version)


def _is_shown_better(pairs: Sequence[Pair]) -> bool:
    """Whether the first of each pair is from a better model, beyond chance."""
    ours = [score for pair in pairs for score in pair[0]]
    theirs = [score for pair in pairs for score in pair[1]]
    mine, other = nats_per_token(ours), nats_per_token(theirs)
    if mine is None or (other is not None and mine >= other):
        return False
    if other is None:
        return True
    sample = sample_ratio(_cluster_sums(ours, theirs), resamples=_FEW_RESAMPLES)
    return sample.p_below(0.0) <= _SHOWN_BETTER


def domain_row(
    comparison: Comparison, *, alpha: float, corrected_alpha: float, resamples: int
) -> DomainRow:
    """The row, with a p-value of a violation that is not corrected yet.

    Args:
        comparison: What is compared.
        alpha: Level of the bounds.
        corrected_alpha: Level that a violation must meet at least, when all others are as clear.
        resamples: Behind every bound.
    """
    candidate = [score for pair in comparison.pairs for score in pair[0]]
    other = [score for pair in comparison.pairs for score in pair[1]]
    clusters = _cluster_sums(candidate, other)
    ours, theirs = nats_per_token(candidate), nats_per_token(other)
    row = DomainRow(
        domain=comparison.domain,
        role=comparison.role,
        test=comparison.test,
        against=comparison.against,
        documents=len(candidate),
        clusters=len(clusters),
        targets=sum(score.targets for score in candidate),
        candidate_nats_per_token=ours,
        champion_nats_per_token=theirs,
        candidate_bits_per_byte=bits_per_byte(candidate),
        champion_bits_per_byte=bits_per_byte(other),
        difference=None,
        margin=comparison.margin,
    )
    if ours is None or theirs is None:
        return row
    sample = sample_ratio(clusters, resamples=resamples)
    upper, margin = sample.upper(alpha), comparison.margin
    # A gain has to exceed its margin; a loss may be just as large as its own.
    passed = False
    if margin is not None and upper is not None:
        passed = upper < margin if comparison.test == "gain" else upper <= margin
    return replace(
        row,
        difference=sample.estimate,
        lower_bound=sample.lower(alpha),
        upper_bound=upper,
        p_met=None if margin is None else sample.p_below(margin),
        p_violated=None if margin is None else sample.p_above(margin),
        smallest_detectable_effect=sample.detectable_below(alpha),
        smallest_detectable_violation=sample.detectable_above(corrected_alpha),
        passed=passed,
    )


def _cluster_sums(
    candidate: Sequence[DocumentScore], other: Sequence[DocumentScore]
) -> dict[str, tuple[float, int]]:
    """Cluster -> (candidate minus other in nats, targets), exact in whatever order of documents."""
    nats: defaultdict[str, list[float]] = defaultdict(list)
    targets: defaultdict[str, int] = defaultdict(int)
    for score in candidate:
        nats[score.cluster].append(score.nats)
        targets[score.cluster] += score.targets
    for score in other:
        nats[score.cluster].append(-score.nats)
    return {
        name: (math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan, targets[name])
        for name, parts in nats.items()
    }
