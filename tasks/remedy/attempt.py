"""One attempt to repair a candidate by merging: choose on one half, export, judge on the other."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from storage.errors import AlreadyExistsError
from storage.manifest import identity_of
from storage.models import fetch_model, is_published, read_model_manifest
from tasks.judge.verdict import CheckConfig, Remedy, RemedyAttempt, RemedyPoint, VerdictReport
from tasks.model_export import export_model
from tasks.remedy.merges import Family, merge_into, open_family
from tasks.remedy.select import Choice, SelectingHalf, choose
from tasks.update_plan import UpdatePlan


def attempt_merges(
    family: Family,
    tried: Sequence[Remedy],
    half: SelectingHalf,
    config: CheckConfig,
    judge: Callable[[str], VerdictReport],
    *,
    update: str,
    version: str,
    tokenizer_prefix: str,
) -> RemedyAttempt:
    """Choose among the models that ``tried`` make, and have the best judged on the other half.

    Safe to repeat: the same model, the same verdict; a model that was exported is not made again.

    Args:
        family: The failed candidate and its relatives.
        tried: Merges.
        half: What selects.
        config: Margins, with the level of this attempt as ``alpha``.
        judge: The verdict on a version, by its name, on the half that judges and at that level.
        update: Id of the attempt.
        version: Name that the model gets.
        tokenizer_prefix: The lineage's tokenizer.

    Raises:
        ValueError: The models cannot be merged; names them.
        CorruptError: A model, a checkpoint or a shard is damaged.
        RuntimeError: The export computes other logits than the merged model.
    """
    began = time.monotonic()
    choice = choose(family, tried, half, config)
    attempt = RemedyAttempt(
        tried=tuple(tried),
        points=choice.points,
        remedy=None,
        settings={},
        version="",
        update=update,
        verdict=None,
        reason=_why_none(choice),
        alpha=config.alpha,
        scored_tokens=choice.scored_tokens,
    )
    if choice.best is not None:
        _export(family, choice.best, update, version, tokenizer_prefix)
        report = judge(version)
        attempt = replace(
            attempt,
            remedy=choice.best.remedy,
            settings=choice.best.settings,
            version=version,
            verdict=report.verdict,
            reason=report.reason,
            rows=report.rows,
            scored_tokens=choice.scored_tokens + judged_tokens(report),
        )
    return replace(attempt, seconds=time.monotonic() - began)


def _why_none(choice: Choice) -> str:
    if not choice.points:
        return "There is nothing that it could merge."
    return (
        f"None of {len(choice.points)} models keeps both new and old on the half of the items that "
        "selects."
    )


def judged_tokens(report: VerdictReport) -> int:
    """Held-out tokens of a judgement, each once."""
    shown = [row for row in report.rows if row.test in ("gain", "loss")]
    return sum(row.targets for row in shown)


def why_unjudgeable(report: VerdictReport) -> str:
    """Why no repaired model can pass on half of the items, whatever it is; "" when one can.

    Half of few clusters may be too few to bound anything, which shows in the candidate's own
    rows on that half before anything is merged or trained.
    """
    rows = [row for row in report.rows if row.margin is not None and row.upper_bound is None]
    few = ", ".join(f"{row.domain} ({row.clusters} clusters)" for row in rows)
    return f"Half of the held-out items is too few to judge a remedy by: {few}." if few else ""


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


def _export(
    family: Family, best: RemedyPoint, update: str, version: str, tokenizer_prefix: str
) -> None:
    from training.model_files import load_model  # noqa: PLC0415  torch

    prefix, origin = family.layout.model(version), f"merge:{update}"
    if is_published(family.store, prefix):
        found = read_model_manifest(family.store, prefix).origin
        if found != origin:
            raise AlreadyExistsError(
                f"{prefix} was made from {found}, not by {origin}: a version is published once, so "
                "run a new update"
            )
        fetch_model(family.store, prefix, family.work_dir / "published" / version)
        return
    directory = family.work_dir / "chosen"
    parents = open_family(family, best.remedy)
    merge_into(family, best.remedy, best.settings, parents, directory)
    export_model(
        family.store,
        family.layout,
        load_model(directory),
        version=version,
        origin=origin,
        tokenizer_prefix=tokenizer_prefix,
        work_dir=family.work_dir,
    )
    shutil.rmtree(directory)
