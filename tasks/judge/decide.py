"""Scores to verdict, pure: a win has to be shown, and so has a defeat; the rest is a person's.

PASS is an intersection-union test: every requirement must hold by its own one-sided bound, which
needs no correction. FAIL needs evidence that a requirement is broken, Holm-corrected over all of
them, so that a lineage with many domains is not refused by chance. All requirements have one form:
the candidate's loss minus another model's lies below a margin, ``-min_gain_nats`` on the new data
and ``max_loss_nats`` on the old.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.judge.bootstrap import RESAMPLES, sample_ratio
from tasks.judge.reasons import doubt, remarks, success, violation
from tasks.judge.verdict import (
    ALL_NEW,
    CheckConfig,
    DocumentScore,
    DomainRow,
    EarlierScores,
    Health,
    Outcome,
    Role,
    SliceScores,
    Test,
    VerdictReport,
    bits_per_byte,
    nats_per_token,
)

__all__ = [
    "CheckConfig",
    "DocumentScore",
    "DomainRow",
    "EarlierScores",
    "Health",
    "SliceScores",
    "VerdictReport",
    "decide",
    "holm",
]

_Pair = tuple[tuple[DocumentScore, ...], tuple[DocumentScore, ...]]


def decide(
    slices: Sequence[SliceScores],
    config: CheckConfig,
    *,
    health: Health,
    candidate: str,
    champion: str | None,
    unguarded_base: bool = False,
    suite: str = "",
) -> VerdictReport:
    """Judge ``candidate`` against ``champion`` on the same frozen items.

    Pure: the verdict depends on the scores alone, not on the order of slices or documents.

    Args:
        slices: Old and new ones with both models' scores; without a champion, a unigram's.
        config: Margins and level.
        health: Whether the candidate writes at all.
        candidate: Version under judgement.
        champion: Version in use; None for the first version of a lineage that starts from nothing.
        unguarded_base: The lineage grew from an imported model and has no reference.
        suite: Version of the suite, for the record.

    Raises:
        ValueError: A model was scored on other documents than the candidate, or scores are missing.
    """
    rows = _correct(_rows(slices, config, champion), config.alpha)
    unguarded = unguarded_base and not config.accept_unguarded
    verdict, reasons = _conclude(rows, health, unguarded, config)
    return VerdictReport(
        verdict=verdict,
        reason=reasons[0],
        reasons=tuple(reasons + remarks(slices, champion, unguarded_base)),
        candidate=candidate,
        champion=champion,
        rows=tuple(rows),
        health=health,
        config=config,
        resamples=RESAMPLES,
        suite=suite,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order of the input.

    Whoever rejects where they are at most alpha makes any error at all with at most that chance.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """One row before it is computed: the slices of a domain, pooled, against one other model."""

    domain: str
    role: Role
    test: Test
    against: str
    margin: float | None
    pairs: tuple[_Pair, ...]


def _rows(
    slices: Sequence[SliceScores], config: CheckConfig, champion: str | None
) -> list[DomainRow]:
    new = [item for item in slices if item.role == "new"]
    old = [item for item in slices if item.role == "old"]
    margin = -(config.min_gain_nats if champion else config.first_version_gain_nats)
    against = champion or "unigram"
    comparisons: list[_Comparison] = []
    if new:
        pairs = tuple(_pair(item, against) for item in new)
        comparisons.append(
            _Comparison(
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
                _Comparison(
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
    return [_row(comparison, config.alpha) for comparison in comparisons]


def _by_domain(slices: Sequence[SliceScores]) -> list[tuple[str, list[SliceScores]]]:
    groups: defaultdict[str, list[SliceScores]] = defaultdict(list)
    for item in slices:
        groups[item.domain].append(item)
    return sorted(groups.items())


def _pair(item: SliceScores, against: str) -> _Pair:
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
) -> _Pair:
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


def _best_ever(domain: str, members: Sequence[SliceScores], margin: float) -> _Comparison | None:
    """The comparison with the version that the candidate looks worst against, None without any.

    Earlier versions may lack scores on the newest slices; each is compared on those that it has.
    """
    pairs: defaultdict[str, list[_Pair]] = defaultdict(list)
    for item in members:
        for earlier in item.earlier:
            matched = _matched(item.name, item.candidate, earlier.version, earlier.scores)
            pairs[earlier.version].append(matched)
    if not pairs:
        return None
    rises = {version: _rise(found) for version, found in pairs.items()}
    # The version's name breaks ties, so that the order of the input does not matter.
    worst = max(rises, key=lambda version: (rises[version], version))
    return _Comparison(
        domain=domain,
        role="old",
        test="cumulative",
        against=worst,
        margin=margin,
        pairs=tuple(pairs[worst]),
    )


def _rise(pairs: Sequence[_Pair]) -> float:
    """Candidate minus other in nats per token; what is not finite counts as infinite."""
    ours = nats_per_token([score for pair in pairs for score in pair[0]])
    theirs = nats_per_token([score for pair in pairs for score in pair[1]])
    return math.inf if ours is None or theirs is None else ours - theirs


def _row(comparison: _Comparison, alpha: float) -> DomainRow:
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
    sample = sample_ratio(clusters)
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
        smallest_detectable_effect=sample.smallest_detectable(alpha),
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


def _correct(rows: Sequence[DomainRow], alpha: float) -> list[DomainRow]:
    """Correct the evidence of violations over all tested rows."""
    tested = [index for index, row in enumerate(rows) if row.p_violated is not None]
    adjusted = dict(zip(tested, holm([rows[i].p_violated or 0.0 for i in tested]), strict=True))
    return [
        replace(row, p_violated=adjusted[index], violated=adjusted[index] <= alpha)
        if index in adjusted
        else row
        for index, row in enumerate(rows)
    ]


def _conclude(
    rows: Sequence[DomainRow], health: Health, unguarded: bool, config: CheckConfig
) -> tuple[Outcome, list[str]]:
    """The verdict and its reasons, at least one, most important first."""
    broken = [
        f"{row.domain}: held-out scores against {row.against} are not finite numbers"
        for row in rows
        if row.targets and row.difference is None
    ]
    violations = [violation(row) for row in rows if row.violated]
    if health.problem:
        # Not capitalize(): it would spell the name of a slice small.
        problem = health.problem[:1].upper() + health.problem[1:] + "."
        return "FAIL", [problem, *broken, *violations]
    if broken or violations:
        return "FAIL", [*broken, *violations]
    tested = [row for row in rows if row.margin is not None]
    doubts = [doubt(row) for row in tested if not row.passed]
    if not any(row.test == "gain" for row in tested):
        doubts.insert(0, "There is no held-out new text, so no gain can be shown.")
    if unguarded:
        doubts.append(
            "The imported base has no reference, so nobody can see what it forgets; "
            "give a reference, or set accept_unguarded."
        )
    if doubts:
        return "AMBIGUOUS", doubts
    return "PASS", [success(tested, config)]
