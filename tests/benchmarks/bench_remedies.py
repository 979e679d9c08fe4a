"""What each remedy rescues of an update that has forgotten, and what it costs, as Markdown.

    python tests/benchmarks/bench_remedies.py
    python tests/benchmarks/bench_remedies.py --old FICTION_EN.jsonl.gz --new FICTION_DE.jsonl.gz
    python tests/benchmarks/bench_remedies.py --old NEWS.jsonl.gz --old-years 2022 2023 \
        --new NEWS.jsonl.gz --new-years 2024 --seeds 0 1 2

For each seed a lineage learns the old text from nothing and then the new text, with the default
margins and no remedy; then every remedy is tried by itself on that candidate, as an update would
try it, whatever became of the others. Without files the shift is from installed prose to installed
code. Run it with OMP_NUM_THREADS=1.
"""
# ruff: noqa: T201  a script that prints its tables

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from storage.head import Head, read_head
from storage.layout import Layout
from storage.local_objects import LocalObjects
from storage.manifest import load
from storage.suite import read_suite
from tasks.harvest import harvest_part
from tasks.judge.decide import decide
from tasks.judge.halves import half_of_slices
from tasks.judge.verdict import CheckConfig, Remedy, RemedyAttempt, VerdictReport
from tasks.publish import export
from tasks.remedy.attempt import attempt_id, attempt_merges, judged_tokens
from tasks.remedy.config import RETRAININGS, RemedyConfig
from tasks.remedy.merges import Family, settings_of
from tasks.remedy.retrain import retraining_plan, settings_of_retraining
from tasks.remedy.select import read_selecting_half
from tasks.scoring.check import CheckResult
from tasks.scoring.check import check as score
from tasks.scoring.panel import panel_of
from tasks.train import ComputeConfig, train
from tasks.update_plan import UpdatePlan, load_plan, save_plan

LAYOUT = Layout("shift")
CURVE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
REMEDIES: tuple[Remedy, ...] = (
    "interpolation",
    "breadcrumbs",
    "last_k",
    "half_reset",
    "layerwise",
    *RETRAININGS,
)
CHARS_OF_A_WORK, CHARS_OF_A_DOCUMENT = 8_000, 4_000
"""Of more only the beginning: bounds are by work, and a few whole novels would give none."""
SEQ_LEN = 128
MODEL = {
    "vocab_size": 1024,
    "hidden_size": 96,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": SEQ_LEN,
    "tie_embeddings": True,
}


def main() -> None:
    """Train, try, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "perennial-bench-remedies"
    parser.add_argument("--folder", type=Path, default=default, help="keeps what was trained")
    parser.add_argument("--old", type=Path, help="JSONL.gz with text, source and perhaps year")
    parser.add_argument("--old-years", type=int, nargs="*", default=[])
    parser.add_argument("--new", type=Path, help="the same; both or none")
    parser.add_argument("--new-years", type=int, nargs="*", default=[])
    parser.add_argument("--chars", type=int, default=3_000_000, help="of each text, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--share", type=float, default=0.0, help="of replay in the update")
    parser.add_argument("--first-steps", type=int, default=240)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step")
    parser.add_argument("--held-out", type=int, default=150_000, help="tokens of a text, at most")
    parser.add_argument("--remedies", nargs="+", choices=REMEDIES, default=list(REMEDIES))
    options = parser.parse_args()
    if (options.old is None) != (options.new is None):
        parser.error("give --old and --new, or neither")
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    for seed in options.seeds:
        rows += one_seed(options, seed)
    print("\n| seed | remedy | chosen | new | old | verdict | trained tokens | scored | seconds |")
    print("| ---: | --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    print("\n".join(rows))


def one_seed(options: argparse.Namespace, seed: int) -> list[str]:
    """The rows of one lineage; its curve is printed."""
    home = options.folder / f"seed-{seed}-share-{options.share:g}"
    store = LocalObjects(home / "store")
    failed = failed_update(options, home, store, seed)
    report = load(store, f"{LAYOUT.update(failed.id)}/verdict.json", VerdictReport)
    rows = [
        f"| {seed} | (candidate) | | {changes(report)} | {report.verdict} | "
        f"{failed.total_tokens:,} | | |"
    ]
    if report.verdict != "FAIL":
        return rows
    head = read_head(store, LAYOUT)
    assert head is not None
    work = Workshop(home, store, head, failed)
    print(f"\nseed {seed}: change against the champion, nats per token, on the half that selects\n")
    print("| weight of the candidate | new | old |\n| ---: | ---: | ---: |")
    curve = work.merges(("interpolation",), RemedyConfig(weights=CURVE), name="curve")
    for point in curve.points:
        print(f"| {point.settings['weight']:g} | {shown(point.gain)} | {shown(point.worst_loss)} |")
    for remedy in options.remedies:
        attempt = work.again(remedy) if remedy in RETRAININGS else work.merges((remedy,))
        rows.append(row_of(seed, attempt))
        print(rows[-1], flush=True)
    return rows


class Workshop:
    """One failed candidate, on which every remedy is tried as if it were the only one."""

    def __init__(self, home: Path, store: LocalObjects, head: Head, plan: UpdatePlan) -> None:
        self.home, self.store, self.head, self.plan = home, store, head, plan
        self.config = RemedyConfig()
        check = CheckConfig()
        level = self.config.level(check.alpha)
        self.check, self.attempt = check, replace(check, alpha=level)
        assert head.suite is not None
        self.suite = read_suite(store, LAYOUT, head.suite)

    def merges(
        self, tried: Sequence[Remedy], config: RemedyConfig | None = None, *, name: str = ""
    ) -> RemedyAttempt:
        """One attempt at a merge."""
        family = Family(
            store=self.store,
            layout=LAYOUT,
            plan=self.plan,
            config=config or self.config,
            work_dir=self.home / "bench" / "remedy",
        )
        if not any(settings_of(family, remedy) for remedy in tried):
            print(f"{tried} has nothing to merge", file=sys.stderr)
        update = attempt_id(self.plan, tried)
        panel = panel_of(
            self.store,
            LAYOUT,
            head=self.head,
            suite=self.suite,
            new_snapshots=self.plan.new_snapshots,
            config=self.check,
            work_dir=self.home / "bench",
        )
        assert self.head.tokenizer is not None
        return attempt_merges(
            family,
            tried,
            read_selecting_half(family, self.evidence(family.champion).slices, panel),
            self.attempt,
            self.judge,
            update=update + name,
            version=f"9-{name}{update[:8]}",
            tokenizer_prefix=self.head.tokenizer,
        )

    def evidence(self, version: str) -> CheckResult:
        """The scores of a version and of the champion."""
        return score(
            self.store,
            LAYOUT,
            candidate=version,
            champion=self.plan.champion,
            suite=self.suite,
            head=self.head,
            new_snapshots=self.plan.new_snapshots,
            work_dir=self.home / "bench",
            config=self.check,
        )

    def judge(self, version: str) -> VerdictReport:
        """As an update would judge it: on half of the items, at the level of one attempt."""
        found = self.evidence(version)
        return decide(
            half_of_slices(found.slices, "judge"),
            self.attempt,
            health=found.health,
            candidate=version,
            champion=self.plan.champion,
        )

    def again(self, remedy: Remedy) -> RemedyAttempt:
        """One attempt at a retraining."""
        began = time.monotonic()
        limit = int(self.config.max_retraining * self.plan.total_tokens)
        # The failed version stays on the head: that it was judged is no hindrance here.
        made = retraining_plan(
            self.store,
            LAYOUT,
            self.head,
            self.plan,
            remedy,
            self.config,
            number=9,
            max_tokens=limit,
        )
        assert isinstance(made, UpdatePlan), made
        save_plan(self.store, LAYOUT, made)
        checkpoint = train(
            made.train,
            store_uri=self.store.uri,
            compute=ComputeConfig(num_workers=0, threads_per_worker=1),
            work_dir=self.home / "bench",
        )
        assert self.head.tokenizer is not None
        export(
            self.store,
            LAYOUT,
            checkpoint_prefix=checkpoint,
            version=made.version,
            tokenizer_prefix=self.head.tokenizer,
            plan=made.train,
            work_dir=self.home / "bench",
        )
        report = self.judge(made.version)
        return RemedyAttempt(
            tried=(remedy,),
            points=(),
            remedy=remedy,
            settings=settings_of_retraining(made, remedy),
            version=made.version,
            update=made.id,
            verdict=report.verdict,
            reason=report.reason,
            alpha=self.attempt.alpha,
            rows=report.rows,
            trained_tokens=made.total_tokens,
            scored_tokens=judged_tokens(report),
            seconds=time.monotonic() - began,
        )


def failed_update(
    options: argparse.Namespace, home: Path, store: LocalObjects, seed: int
) -> UpdatePlan:
    """Two updates of a lineage, by command; those that are done are not run again."""
    for number, domain in enumerate(("old", "new"), start=1):
        write_text(options, home / domain, domain)
        file = home / f"{domain}.yaml"
        file.write_text(yaml.safe_dump(lineage(options, seed)), encoding="utf-8")
        head = read_head(store, LAYOUT)
        if head is None or len(head.versions) < number:
            ended = subprocess.run(
                [sys.executable, "-m", "flows.cli", "update", str(file)],
                env={**os.environ, "PERENNIAL_HOME": str(home)},
                check=False,
            )
            if ended.returncode not in (0, 3):
                raise SystemExit(f"the update on the {domain} text ended with {ended.returncode}")
    head = read_head(store, LAYOUT)
    assert head is not None
    return load_plan(store, LAYOUT, head.versions[1].update)


def lineage(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The YAML: all defaults but for the size of things."""
    batch = options.batch * SEQ_LEN
    return {
        "name": LAYOUT.lineage,
        "base": {"model": MODEL},
        "sources": [
            {
                "name": domain,
                "uri": f"{domain}/*.jsonl.gz",
                "domain": domain,
                "fields": {"text": "text", "id": "id", "cluster": "work"},
            }
            for domain in ("old", "new")
        ],
        "holdout": {"fraction": 0.1, "min_clusters": 40, "max_tokens": options.held_out},
        "recipe": {
            "seq_len": SEQ_LEN,
            "global_batch_samples": options.batch,
            "micro_batch_size": options.batch,
            "precision": "fp32",
            "schedule": {"eta_max": 3e-3, "warmup_fraction": 0.05},
            "seed": seed,
        },
        "replay": {"share": options.share},
        "budget": {
            "first_tokens": options.first_steps * batch,
            "tokens": options.steps * batch,
            "checkpoint_every_tokens": max(1, options.steps // 8) * batch,
        },
        # A first version of a few steps is not what is asked here.
        "check": {"first_version_gain_nats": 0.0},
        "remedy": {"order": []},
        "compute": {
            "num_workers": 0,
            "threads_per_worker": 1,
            "checkpoints": {"permanent_every_steps": max(1, options.steps // 8)},
        },
    }


def write_text(options: argparse.Namespace, folder: Path, domain: str) -> None:
    """About ``--chars`` characters of a text, a file's documents clustered by their work."""
    path = folder / "part-1.jsonl.gz"
    if path.exists():
        return
    folder.mkdir(parents=True)
    source = options.old if domain == "old" else options.new
    years = options.old_years if domain == "old" else options.new_years
    if source is None:
        harvested = "prose" if domain == "old" else "code"
        source = harvest_part(harvested, 1, options.folder / harvested, part_chars=options.chars)
        assert source is not None
    left = options.chars
    unfinished = path.with_suffix(".unfinished")
    with gzip.open(unfinished, "wt", encoding="utf-8") as out:
        for number, document in enumerate(documents_of(source, years)):
            if left <= 0:
                break
            left -= len(document["text"])
            out.write(json.dumps({**document, "id": f"{domain}-{number}"}) + "\n")
    unfinished.rename(path)


def documents_of(path: Path, years: Sequence[int]) -> Iterator[dict[str, str]]:
    """Text and work of the documents of the years, of all without any, evenly over the works."""
    taken: Counter[str] = Counter()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            # A chapter is part of its work.
            work = (row.get("source") or row.get("module") or row["id"]).partition("#")[0]
            if (years and row.get("year") not in years) or taken[work] >= CHARS_OF_A_WORK:
                continue
            text = row["text"][:CHARS_OF_A_DOCUMENT]
            taken[work] += len(text)
            yield {"text": text, "work": work}


def row_of(seed: int, attempt: RemedyAttempt) -> str:
    """One line of the table: what was judged, or the best that was not worth it."""
    name = attempt.name.partition(", ")
    gain = next((row.difference for row in attempt.rows if row.test == "gain"), None)
    losses = [row.difference for row in attempt.rows if row.test == "loss"]
    old = max((loss for loss in losses if loss is not None), default=None)
    if attempt.verdict is None and attempt.points:
        best = max(
            attempt.points, key=lambda point: -math.inf if point.chance is None else point.chance
        )
        name = (name[0], "", ", ".join(f"{key} {value:g}" for key, value in best.settings.items()))
        gain, old = best.gain, best.worst_loss
    verdict = attempt.verdict or "not judged"
    return (
        f"| {seed} | {name[0]} | {name[2]} | {shown(gain)} | {shown(old)} | {verdict} | "
        f"{attempt.trained_tokens:,} | {attempt.scored_tokens:,} | {attempt.seconds:.0f} |"
    )


def changes(report: VerdictReport) -> str:
    """Of new and old, as two cells."""
    gain = next((row.difference for row in report.rows if row.test == "gain"), None)
    losses = [row.difference for row in report.rows if row.test == "loss"]
    old = max((loss for loss in losses if loss is not None), default=None)
    return f"{shown(gain)} | {shown(old)}"


def shown(value: float | None) -> str:
    """A change in nats per token."""
    return "" if value is None else f"{value:+.3f}"


if __name__ == "__main__":
    main()
