"""Trials of the judge: scores made so that the truth is known, judged as an update judges them.

Every verdict comes from ``tasks.judge.decide.decide`` with its own number of resamples. The judge
sums the documents of a cluster before anything else, so a cluster is one document here.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tasks.judge.decide import (
    CheckConfig,
    DocumentScore,
    Health,
    SliceScores,
    VerdictReport,
    decide,
)
from tasks.judge.verdict import DomainRow, Role, TaskRow, TaskScores, Test
from training.items.score import ItemScore

CONFIG = CheckConfig()
HEALTHY = Health(finite=True)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Two models' scores of the same clusters, each ``float64[clusters]``."""

    other_nats: _Floats
    """Of the model that the candidate is compared with."""
    differences: _Floats
    """Nats of the candidate above those."""
    targets: _Floats

    @property
    def ratio(self) -> float:
        """The candidate's loss above the other's, nats per token."""
        return float(self.differences.sum() / self.targets.sum())

    def take(self, which: npt.NDArray[np.int64]) -> "Clusters":
        """Some of the clusters, in the given order."""
        return Clusters(self.other_nats[which], self.differences[which], self.targets[which])

    def moved(self, shift: float, *, scale: float = 1.0) -> "Clusters":
        """``scale`` times the differences, and ``shift`` nats per token on top."""
        return Clusters(
            self.other_nats, scale * self.differences + shift * self.targets, self.targets
        )

    def flipped(self, random: np.random.Generator) -> "Clusters":
        """Each cluster's difference with a sign drawn by chance: the true ratio is 0."""
        signs = random.choice((-1.0, 1.0), size=len(self.targets))
        return Clusters(self.other_nats, signs * self.differences, self.targets)


def centred(pool: Clusters) -> Clusters:
    """The same differences around a ratio of exactly 0, but for rounding."""
    return pool.moved(-pool.ratio)


def some_of(pool: Clusters, count: int, random: np.random.Generator) -> Clusters:
    """``count`` different clusters of the pool, by chance."""
    return pool.take(random.choice(len(pool.targets), size=count, replace=False))


def drawn_from(pool: Clusters, count: int, random: np.random.Generator) -> Clusters:
    """``count`` independent draws: the pool is the population, its ratio is the truth."""
    return pool.take(random.integers(len(pool.targets), size=count))


def scores(nats: _Floats, targets: _Floats) -> tuple[DocumentScore, ...]:
    """One document a cluster."""
    return tuple(
        DocumentScore(f"d{index}", f"c{index}", float(value), int(size), int(size))
        for index, (value, size) in enumerate(zip(nats, targets, strict=True))
    )


def slice_of(clusters: Clusters, domain: str, role: Role) -> SliceScores:
    """The clusters as a slice of the suite."""
    return SliceScores(
        name=f"{domain}@s1",
        domain=domain,
        snapshot="s1",
        role=role,
        candidate=scores(clusters.other_nats + clusters.differences, clusters.targets),
        champion=scores(clusters.other_nats, clusters.targets),
    )


def reordered(item: SliceScores, random: np.random.Generator) -> SliceScores:
    """The same slice, each model's documents in an order of their own."""
    ours, theirs = item.candidate, item.champion or ()
    return replace(
        item,
        candidate=tuple(ours[index] for index in random.permutation(len(ours))),
        champion=tuple(theirs[index] for index in random.permutation(len(theirs))),
    )


def sure_gain() -> SliceScores:
    """A new slice, 1 nat per token better everywhere: known exactly, it costs no bootstrap."""
    targets = np.full(8, 512.0)
    return slice_of(Clusters(4.0 * targets, -targets, targets), "new", "new")


def judged(*slices: SliceScores) -> VerdictReport:
    """The verdict of an update on these slices, at the default margins."""
    return decide(slices, CONFIG, health=HEALTHY, candidate="2-b", champion="1-a")


def row_of(report: VerdictReport, test: Test) -> DomainRow:
    """The only row of a test."""
    (row,) = [row for row in report.rows if row.test == test]
    return row


def at_the_loss_margin(clusters: Clusters, true_loss: float) -> VerdictReport:
    """An old slice whose true loss is known, beside a gain beyond doubt."""
    return judged(sure_gain(), slice_of(clusters.moved(true_loss), "old", "old"))


def at_the_gain_margin(clusters: Clusters, true_gain: float) -> VerdictReport:
    """A new slice whose true gain is known, and nothing else to judge."""
    return judged(slice_of(clusters.moved(-true_gain), "new", "new"))


def answered(
    items: int,
    clusters: int,
    shares: tuple[float, float],
    random: np.random.Generator,
) -> TaskRow:
    """The row of a task whose items flip by chance, all items of a cluster alike.

    Args:
        items: All together, a multiple of the clusters.
        clusters: As many as items: each stands alone.
        shares: True shares of positive and of negative flips.
        random: What decides.
    """
    flips = random.choice((1, -1, 0), p=(*shares, 1 - sum(shares)), size=clusters)
    known = random.random(clusters) < 0.6
    before, now = (
        tuple(
            ItemScore(
                item=f"i{index}",
                cluster=f"c{index % clusters}",
                is_correct=bool(known[index % clusters])
                if flips[index % clusters] == 0
                else bool(flips[index % clusters] == right_if),
                answer="",
                nats=float(is_new),
                targets=1,
            )
            for index in range(items)
        )
        for is_new, right_if in ((False, -1), (True, 1))
    )
    task = TaskScores(task="t", candidate=now, champion=before)
    report = decide(
        [sure_gain()], CONFIG, health=HEALTHY, candidate="2-b", champion="1-a", tasks=[task]
    )
    return report.task_rows[0]
