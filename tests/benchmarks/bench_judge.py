"""The judge is judged: how often a verdict is wrong, how often an effect is seen, as Markdown.

    python tests/benchmarks/bench_judge.py
    python tests/benchmarks/bench_judge.py --flips 2000 --clusters 8 30 100 300 --only margins

The page docs/results/judge.md says what each table is. Text is harvested and models are trained
once into the folder. Run it with OMP_NUM_THREADS=1: the matrices are small.
"""
# ruff: noqa: T201  a script that prints its tables

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.judge.power import detectable_effect
from tasks.judge.verdict import EarlierScores, Test, VerdictReport
from tests.benchmarks.judge_scores import paired_scores
from tests.benchmarks.judge_trials import (
    CONFIG,
    Clusters,
    answered,
    at_the_gain_margin,
    at_the_loss_margin,
    centred,
    drawn_from,
    judged,
    reordered,
    row_of,
    scores,
    slice_of,
    some_of,
    sure_gain,
)

BEYOND = 1.1
"""Just beyond the margin: so many times it."""
LOSS, GAIN = CONFIG.max_loss_nats, CONFIG.min_gain_nats
_Scores = dict[str, dict[str, Clusters]]


def main() -> None:
    """Measure and print Markdown tables."""
    tables: dict[str, Callable[[argparse.Namespace, _Scores], None]] = {
        "pool": print_pool,
        "itself": print_itself,
        "margins": print_margins,
        "drawn": print_drawn,
        "power": print_power,
        "answers": print_answers,
        "refused": print_refused,
        "nights": print_nights,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "perennial-bench-judge"
    parser.add_argument("--folder", type=Path, default=default, help="keeps text and scores")
    parser.add_argument("--flips", type=int, default=200, help="trials of each case")
    parser.add_argument("--clusters", type=int, nargs="+", default=[8, 30, 100])
    parser.add_argument("--lineages", type=int, default=10, help="of 30 nights each")
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--parts", type=int, default=3, help="of the harvest of prose")
    parser.add_argument("--first-steps", type=int, default=200, help="of the first model")
    parser.add_argument("--steps", type=int, default=50, help="of its continuations")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = paired_scores(
        options.folder, parts=options.parts, first_steps=options.first_steps, steps=options.steps
    )
    for name in options.only:
        tables[name](options, found)


def print_pool(_: argparse.Namespace, found: _Scores) -> None:
    """What the real paired scores look like."""
    print("\n| model | domain | clusters | targets | largest cluster | change | spread | excess |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model, domains in found.items():
        for domain, pool in domains.items():
            ratios = centred(pool).differences / pool.targets
            excess = (ratios**4).mean() / (ratios**2).mean() ** 2 - 3
            print(
                f"| {model} | {domain} | {len(pool.targets)} | {pool.targets.sum():,.0f} "
                f"| {pool.targets.max() / pool.targets.sum():.1%} | {pool.ratio:+.4f} "
                f"| {ratios.std():.4f} | {excess:.1f} |"
            )


def print_itself(_: argparse.Namespace, found: _Scores) -> None:
    """A against A, its documents in 20 orders."""
    random = np.random.default_rng(0)
    new, old = (found["mixed"][domain].moved(0.0, scale=0.0) for domain in ("code", "prose"))
    slices = slice_of(new, "code", "new"), slice_of(old, "prose", "old")
    report = judged(*slices)
    same = all(judged(*(reordered(item, random) for item in slices)) == report for _ in range(20))
    numbers = {
        number
        for row in report.rows
        for number in (row.difference, row.lower_bound, row.upper_bound)
    }
    print(f"\nA against A: differences and bounds {numbers}, the same in 20 orders: {same}")
    print(f"{report.verdict}: {report.reason}")


CASES: dict[str, tuple[Callable[[Clusters], VerdictReport], Test, tuple[str, ...]]] = {
    "loss 0": (partial(at_the_loss_margin, true_loss=0.0), "loss", ("FAIL", "broken")),
    "loss at the margin": (
        partial(at_the_loss_margin, true_loss=LOSS),
        "loss",
        ("PASS", "FAIL", "broken"),
    ),
    "loss just beyond": (partial(at_the_loss_margin, true_loss=BEYOND * LOSS), "loss", ("PASS",)),
    "gain at the margin": (
        partial(at_the_gain_margin, true_gain=GAIN),
        "gain",
        ("PASS", "FAIL", "broken"),
    ),
    "gain just short": (partial(at_the_gain_margin, true_gain=GAIN / BEYOND), "gain", ("PASS",)),
}
"""How to judge, the row that decides, and what alpha bounds: exactly at a margin, both errors."""


def print_margins(options: argparse.Namespace, found: _Scores) -> None:
    """Sign flips by cluster of the centred differences, moved to a known truth."""
    pool = centred(found["mixed"]["prose"])

    def flip(count: int, random: np.random.Generator) -> Clusters:
        return some_of(pool, count, random).flipped(random)

    _print_rates(options, options.cases, flip)


def print_drawn(options: argparse.Namespace, found: _Scores) -> None:
    """Clusters drawn from the pool with their own signs, which keeps the skew of the effects."""
    for model, domain in product(("mixed", "forgetful"), ("prose", "code")):
        pool = centred(found[model][domain])
        print(f"\nDifferences of `{model}` on {domain}:")
        _print_rates(options, ["loss at the margin"], partial(drawn_from, pool))


def _print_rates(
    options: argparse.Namespace,
    cases: list[str],
    draw: Callable[[int, np.random.Generator], Clusters],
) -> None:
    error = math.sqrt(CONFIG.alpha * (1 - CONFIG.alpha) / options.flips)
    limit = CONFIG.alpha + 3 * error
    print(f"\n{options.flips} trials; alpha + 3 standard errors: {limit:.4f}\n")
    print("| truth | clusters | PASS | FAIL | AMBIGUOUS | broken, uncorrected | over the limit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for case in cases:
        judge, test, wrong = CASES[case]
        for count in options.clusters:
            random = np.random.default_rng([count, 5])
            seen: Counter[str] = Counter()
            for _ in range(options.flips):
                report = judge(draw(count, random))
                row = row_of(report, test)
                seen[report.verdict] += 1
                seen["broken"] += _is_above(row.lower_bound, row.margin)
            kinds = ("PASS", "FAIL", "AMBIGUOUS", "broken")
            rates = {kind: seen[kind] / options.flips for kind in kinds}
            over = [kind for kind in wrong if rates[kind] > limit]
            shown = " | ".join(f"{rate:.4f}" for rate in rates.values())
            print(f"| {case} | {count} | {shown} | {', '.join(over) or '-'} |", flush=True)


def _is_above(bound: float | None, margin: float | None) -> bool:
    return bound is not None and margin is not None and bound > margin


def print_power(options: argparse.Namespace, found: _Scores) -> None:
    """Losses as far from the margin as the judge says that it could see four times in five."""
    print(
        "\n| text | clusters | largest cluster | promised | shown kept | promised beyond | FAIL "
        "| planned | shown kept |"
    )
    print("| --- |" + " ---: |" * 8)
    for domain in ("prose", "code"):
        pool = centred(found["mixed"][domain])
        for count in options.clusters:
            random = np.random.default_rng([count, 7])
            trials = max(1, options.flips // 4)
            largest, within, beyond, plans = np.empty((4, trials))
            seen: Counter[str] = Counter()
            for trial in range(trials):
                clusters = some_of(pool, count, random)
                promised = row_of(at_the_loss_margin(clusters.flipped(random), 0.0), "loss")
                largest[trial] = clusters.targets.max() / clusters.targets.sum()
                within[trial] = promised.smallest_detectable_effect or math.inf
                beyond[trial] = promised.smallest_detectable_violation or math.inf
                sizes = [int(size) for size in clusters.targets]
                # As an earlier pair of versions shows it on these clusters, whatever its signs,
                # weighted as the error of a ratio of sums is: large clusters differ less.
                weight = float((clusters.targets**2).sum())
                spread = math.sqrt(float((clusters.differences**2).sum()) / weight)
                plans[trial] = detectable_effect(sizes, spread, CONFIG.alpha) or math.inf
                seen["within"] += _is_kept(clusters.flipped(random), within[trial])
                seen["planned"] += _is_kept(clusters.flipped(random), plans[trial])
                broken = at_the_loss_margin(clusters.flipped(random), LOSS + beyond[trial])
                seen["FAIL"] += broken.verdict == "FAIL"
            print(
                f"| {domain} | {count} | {np.median(largest):.0%} | {np.median(within):.4f} "
                f"| {seen['within'] / trials:.3f} | {np.median(beyond):.4f} "
                f"| {seen['FAIL'] / trials:.3f} | {np.median(plans):.4f} "
                f"| {seen['planned'] / trials:.3f} |",
                flush=True,
            )


def _is_kept(clusters: Clusters, effect: float) -> bool:
    return row_of(at_the_loss_margin(clusters, LOSS - effect), "loss").passed


def print_answers(options: argparse.Namespace, _: _Scores) -> None:
    """Right and wrong answers: at the margin, within it and beyond it, with known shares."""
    margin, flips = CONFIG.max_accuracy_loss, CONFIG.max_negative_flips
    print(
        "\n| items | clusters | models differ on | true change | kept | broken, uncorrected "
        "| promised | negative flips | shown too many | bound below the truth |"
    )
    print("| ---: " * 10 + "|")
    for items, clusters in ((100, 100), (300, 300), (1000, 1000), (1000, 50)):
        for differ, change in (
            (0.1, -margin),
            (0.3, -margin),
            (0.1, 0.0),
            (0.1, -2 * margin),
            (2 * flips, 0.0),
        ):
            random = np.random.default_rng([items, clusters, 17])
            shares = (differ + change) / 2, (differ - change) / 2
            seen: Counter[str] = Counter()
            effects: list[float] = []
            for _trial in range(options.flips):
                row = answered(items, clusters, shares, random)
                seen["kept"] += row.passed
                seen["broken"] += row.upper_bound is not None and row.upper_bound < -margin
                seen["flips"] += _is_shown(row.p_flips_violated)
                upper = row.negative_flips_upper
                seen["below"] += upper is not None and upper < shares[1]
                effects.append(row.smallest_detectable_effect or math.inf)
            rates = {key: seen[key] / options.flips for key in ("kept", "broken", "flips", "below")}
            print(
                f"| {items} | {clusters} | {differ:.0%} | {change:+.0%} | {rates['kept']:.4f} "
                f"| {rates['broken']:.4f} | {np.median(effects):.3f} | {shares[1]:.1%} "
                f"| {rates['flips']:.4f} | {rates['below']:.4f} |",
                flush=True,
            )


def _is_shown(p_value: float | None) -> bool:
    return p_value is not None and p_value <= CONFIG.alpha


def print_refused(options: argparse.Namespace, found: _Scores) -> None:
    """What must never PASS, and one that should, on the whole pool and on parts of it."""
    print("\n| model | clusters a slice | trials | PASS | FAIL | AMBIGUOUS |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model, domains in found.items():
        for count in (*options.clusters, 0):
            available = min(len(pool.targets) for pool in domains.values())
            if count > available:
                continue
            random = np.random.default_rng([count, 11])
            trials = max(1, options.flips // 10) if count else 1
            verdicts: Counter[str] = Counter()
            for _ in range(trials):
                new, old = (
                    some_of(domains[domain], count or len(domains[domain].targets), random)
                    for domain in ("code", "prose")
                )
                slices = slice_of(new, "code", "new"), slice_of(old, "prose", "old")
                verdicts[judged(*slices).verdict] += 1
            rates = " | ".join(str(verdicts[kind]) for kind in ("PASS", "FAIL", "AMBIGUOUS"))
            print(f"| {model} | {count or 'all'} | {trials} | {rates} |", flush=True)


def print_nights(options: argparse.Namespace, found: _Scores) -> None:
    """Thirty updates that gain beyond doubt and whose one old slice truly never changes."""
    pool = centred(found["mixed"]["prose"])
    print(
        "\n| clusters | spread | smallest detectable effect | nights | AMBIGUOUS for the old slice "
        "| of these, cumulative only | FAIL | lineages without any |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in options.clusters:
        for scale in (1.0, 0.5, 0.25):
            random = np.random.default_rng([count, 13])
            seen: Counter[str] = Counter()
            effects: list[float] = []
            for _ in range(options.lineages):
                _thirty_nights(
                    some_of(pool, count, random).moved(0.0, scale=scale), random, seen, effects
                )
            print(
                f"| {count} | {scale:g} | {np.median(effects):.4f} | {30 * options.lineages} "
                f"| {seen['AMBIGUOUS']} | {seen['cumulative']} | {seen['FAIL']} "
                f"| {seen['untroubled']} of {options.lineages} |",
                flush=True,
            )


def _thirty_nights(
    clusters: Clusters, random: np.random.Generator, seen: Counter[str], effects: list[float]
) -> None:
    """Every version lies around the same loss by chance; only a PASS becomes the champion."""

    def version() -> npt.NDArray[np.float64]:
        # Two versions differ by the spread of the real pair when each has half of its variance.
        # Not by signs: two versions would then agree exactly on every other cluster.
        chance = math.sqrt(0.5) * random.standard_normal(len(clusters.targets))
        return clusters.other_nats + chance * clusters.differences

    versions = [version()]
    troubled = 0
    for _ in range(30):
        ours = version()
        pair = Clusters(versions[-1], ours - versions[-1], clusters.targets)
        old = replace(
            slice_of(pair, "old", "old"),
            earlier=tuple(
                EarlierScores(version=f"v{number}", scores=scores(nats, clusters.targets))
                for number, nats in enumerate(versions[:-1])
            ),
        )
        report = judged(sure_gain(), old)
        seen[report.verdict] += 1
        troubled += report.verdict != "PASS"
        loss = row_of(report, "loss")
        effects.append(loss.smallest_detectable_effect or math.inf)
        if report.verdict == "PASS":
            versions.append(ours)
        elif report.verdict == "AMBIGUOUS" and loss.passed:
            seen["cumulative"] += 1
    seen["untroubled"] += troubled == 0


if __name__ == "__main__":
    main()
