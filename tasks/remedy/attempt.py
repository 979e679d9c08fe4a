"""One attempt to repair a candidate by merging: choose on one half, export, judge on the other."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import AlreadyExistsError
from storage.head import Head
from storage.layout import Layout
from storage.manifest import identity_of
from storage.models import fetch_model, is_published, read_model_manifest
from storage.objects import ObjectStore
from storage.suite import SuiteManifest, read_suite
from tasks.judge.decide import decide
from tasks.judge.halves import half_of_slices
from tasks.judge.verdict import CheckConfig, Remedy, RemedyAttempt, RemedyPoint, VerdictReport
from tasks.model_export import export_model
from tasks.plan import UpdatePlan
from tasks.remedy.merges import Family, merge_into, open_family
from tasks.remedy.select import choose, read_selecting_half
from tasks.scoring.check import CheckResult, check

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every judgement of a remedy needs; the suite and the head do not move meanwhile."""

    store: ObjectStore
    layout: Layout
    head: Head
    config: CheckConfig
    """With the level of one attempt as its ``alpha``."""
    work_dir: Path

    @property
    def suite(self) -> SuiteManifest:
        """Of today."""
        assert self.head.suite is not None  # every snapshot comes with a suite
        return read_suite(self.store, self.layout, self.head.suite)


def attempt_merges(
    bench: Bench, family: Family, tried: Sequence[Remedy], *, update: str, version: str
) -> RemedyAttempt:
    """Choose among the models that ``tried`` make, and judge the best on the other half.

    Safe to repeat: the same model, the same verdict; a model that was exported is not made again.

    Args:
        bench: Suite, margins and the level of this attempt.
        family: The failed candidate and its relatives.
        tried: Merges.
        update: Id of the attempt.
        version: Name that the model gets.

    Raises:
        ValueError: The models cannot be merged; names them.
        CorruptError: A model, a checkpoint or a shard is damaged.
        RuntimeError: The export computes other logits than the merged model.
    """
    began = time.monotonic()
    plan = family.plan
    slices = _evidence(bench, plan.version, plan).slices
    half = read_selecting_half(family, slices, bench.suite)
    choice = choose(family, tried, half, bench.config)
    attempt = RemedyAttempt(
        tried=tuple(tried),
        points=choice.points,
        remedy=None,
        settings={},
        version="",
        update=update,
        verdict=None,
        reason=f"None of {len(choice.points)} models keeps both new and old on the half of the "
        "items that selects.",
        alpha=bench.config.alpha,
        scored_tokens=choice.scored_tokens,
    )
    if choice.best is not None:
        _export(bench, family, choice.best, update=update, version=version)
        report = judge_on_half(bench, version, plan)
        attempt = replace(
            attempt,
            remedy=choice.best.remedy,
            settings=choice.best.settings,
            version=version,
            verdict=report.verdict,
            reason=report.reason,
            rows=report.rows,
            scored_tokens=choice.scored_tokens + sum(item.tokens for item in bench.suite.slices),
        )
    return replace(attempt, seconds=time.monotonic() - began)


def judge_on_half(bench: Bench, version: str, plan: UpdatePlan) -> VerdictReport:
    """The verdict on a repaired model by the half of the items that has selected nothing.

    Safe to repeat: scores are on record, so it is the same verdict.
    """
    evidence = _evidence(bench, version, plan)
    report = decide(
        half_of_slices(evidence.slices, "judge"),
        bench.config,
        health=evidence.health,
        candidate=version,
        champion=plan.champion,
        unguarded_base=evidence.unguarded_base,
        suite=bench.head.suite or "",
    )
    return replace(report, remedy_of=plan.remedy_of or plan.version, numbers=evidence.numbers)


def why_unjudgeable(bench: Bench, plan: UpdatePlan) -> str:
    """Why no repaired model can pass on half of the items, whatever it is; "" when one can.

    Half of few clusters may be too few to bound anything, which shows in the candidate's own
    rows before anything is merged or trained.
    """
    rows = judge_on_half(bench, plan.version, plan).rows
    few = [row for row in rows if row.margin is not None and row.upper_bound is None]
    if not few:
        return ""
    named = ", ".join(f"{row.domain} ({row.clusters} clusters)" for row in few)
    return f"Half of the held-out items is too few to judge a remedy by: {named}."


def attempt_id(plan: UpdatePlan, tried: Sequence[Remedy]) -> str:
    """Id of an attempt to repair an update's candidate: as of an update, of 16 hex digits."""
    return identity_of([plan.id, "remedy", list(tried)])[:16]


def merged_plan(plan: UpdatePlan, attempt: RemedyAttempt) -> UpdatePlan:
    """The plan of a failed update as the one behind the model that repairs it by merging."""
    assert plan.champion is not None  # a first version is never merged
    return replace(
        plan,
        id=attempt.update,
        version=attempt.version,
        remedy=attempt.name,
        remedy_of=plan.version,
        merged_from=(plan.champion, plan.version),
    )


def _evidence(bench: Bench, version: str, plan: UpdatePlan) -> CheckResult:
    return check(
        bench.store,
        bench.layout,
        candidate=version,
        champion=plan.champion,
        suite=bench.suite,
        head=bench.head,
        new_snapshots=plan.new_snapshots,
        work_dir=bench.work_dir,
    )


def _export(bench: Bench, family: Family, best: RemedyPoint, *, update: str, version: str) -> None:
    from training.model_files import load_model  # noqa: PLC0415  torch

    prefix, origin = bench.layout.model(version), f"merge:{update}"
    if is_published(bench.store, prefix):
        found = read_model_manifest(bench.store, prefix).origin
        if found != origin:
            raise AlreadyExistsError(
                f"{prefix} was made from {found}, not by {origin}: a version is published once, so "
                "run a new update"
            )
        fetch_model(bench.store, prefix, bench.work_dir / "published" / version)
        return
    directory = family.work_dir / "chosen"
    parents = open_family(family, best.remedy)
    merge_into(family, best.remedy, best.settings, parents, directory)
    assert bench.head.tokenizer is not None  # a planned update has tokenised snapshots
    export_model(
        bench.store,
        bench.layout,
        load_model(directory),
        version=version,
        origin=origin,
        tokenizer_prefix=bench.head.tokenizer,
        work_dir=bench.work_dir,
    )
    shutil.rmtree(directory)
