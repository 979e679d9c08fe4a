"""A whole update as its report shows it, made up: three verdicts, every part of the page."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from storage.manifest import FileDigest
from storage.snapshots import DomainSlice, SnapshotManifest
from tasks.judge.decide import CheckConfig, DocumentScore, Health, SliceScores, decide
from tasks.judge.health import Canary, CanarySlice, Writing
from tasks.judge.numbers import Numbers
from tasks.judge.verdict import (
    EarlierScores,
    Flip,
    RemedyAttempt,
    RemedyPoint,
    TaskRow,
    VerdictReport,
)
from tasks.reporting.report import ReportInput
from tasks.scoring.calibration import TokenChange, calibration_of
from tasks.scoring.forgetting import Forgetting, ForgettingMatrix, MatrixRow
from tasks.scoring.panel import Guard
from tasks.scoring.stability import StabilityGap
from tasks.update_plan import UpdatePlan
from training.config import Mixture, ModelConfig, Recipe, Schedule, Stream, TrainPlan
from training.drift import Drift, PartDrift
from training.goodput import Goodput

WRITING = Writing(
    rep_2=0.083,
    rep_4=0.021,
    rep_8=0.004,
    looping_share=0.0,
    end_share=0.40625,
    empty_share=0.0,
    mean_tokens=33.4,
)
HEALTH = Health(
    finite=True,
    probes=32,
    empty=0,
    distinct_token_share=0.625,
    candidate=replace(WRITING, rep_2=0.094, rep_4=0.034, mean_tokens=34.1),
    champion=WRITING,
    canary=Canary(
        max_perplexity_ratio=100.0,
        passages=48,
        slices=tuple(
            CanarySlice(
                slice=f"{domain}@a1b2c3d4e5f6",
                targets=2048,
                candidate_nats_per_token=loss,
                champion_nats_per_token=before,
                perplexity_ratio=math.exp(loss - before),
            )
            for domain, loss, before in (("web-en", 3.43, 3.41), ("books", 3.81, 3.83))
        ),
    ),
)


def numbers_of() -> Numbers:
    """Everything that is shown beside a verdict."""
    rng = np.random.default_rng(2)
    sure = rng.beta(0.8, 1.2, 4000)
    right = rng.uniform(size=4000) < sure**1.15
    parts = [PartDrift(layer=None, part="embed_tokens", parameters=262_144, moved=0.5, norm=41.0)]
    for layer in range(8):
        for part, size in (("self_attn", 40_960), ("mlp", 98_304), ("input_layernorm", 128)):
            moved = 0.2 + 0.05 * layer + (0.1 if part == "mlp" else 0.0)
            parts.append(
                PartDrift(layer=layer, part=part, parameters=size, moved=moved, norm=9.0 + layer)
            )
    return Numbers(
        forgetting=Forgetting(
            backward_slices=6,
            backward_transfer=-0.011,
            forward_slices=3,
            forward_transfer=4.4,
            forgetting_slices=6,
            mean_forgetting=0.013,
            worst_forgetting=0.043,
            worst_slice="web-en@a1b2c3d4e5f6",
        ),
        stability=(
            StabilityGap(
                domain="web-en",
                start=2.61,
                peak=2.94,
                end=2.62,
                depth=0.33,
                noise=0.021,
                peak_tokens=122_880,
                recovery_tokens=614_400,
            ),
        ),
        drift=Drift(parts=tuple(parts)),
        calibration=calibration_of(sure.tolist(), right.tolist()),
        champion_calibration=calibration_of((sure**0.95).tolist(), right.tolist()),
        token_change=TokenChange(
            targets=4000, mean=0.012, median=-0.004, worse_share=0.171, better_share=0.164
        ),
    )


def tasks_of(*, violated: bool) -> tuple[TaskRow, ...]:
    """A guarded task with flips, and one that informs."""
    return (
        TaskRow(
            task="arc_easy",
            against="2-beefbeef",
            items=400,
            clusters=400,
            candidate_accuracy=0.52 if violated else 0.61,
            champion_accuracy=0.60,
            difference=-0.08 if violated else 0.01,
            lower_bound=-0.105 if violated else -0.012,
            upper_bound=-0.055 if violated else 0.032,
            margin=0.05,
            p_met=0.9 if violated else 0.0001,
            p_violated=0.004 if violated else 1.0,
            smallest_detectable_effect=0.03,
            negative_flips=44 if violated else 11,
            positive_flips=12 if violated else 15,
            negative_flips_upper=0.137 if violated else 0.045,
            max_negative_flips=0.1,
            p_flips_violated=0.2,
            backward_trust=0.82,
            examples=(
                Flip(item="arc_easy/17", before="the moon", now="the sun and all of its planets"),
                Flip(item="arc_easy/203", before="B", now="D"),
            ),
            passed=not violated,
            violated=violated,
        ),
        TaskRow(
            task="copy canary",
            against="2-beefbeef",
            items=150,
            clusters=150,
            candidate_accuracy=0.98,
            champion_accuracy=0.99,
            difference=-0.01,
            why_unguarded="at chance level when it was frozen",
        ),
    )


def remedies_of() -> tuple[RemedyAttempt, ...]:
    """A merge that was judged, and a retraining that was not worth it."""
    points = tuple(
        RemedyPoint(
            remedy="interpolation",
            settings={"weight": weight},
            gain=-0.14 * weight,
            worst_loss=0.13 * weight**2,
            chance=1 - weight**2,
        )
        for weight in (0.2, 0.4, 0.6, 0.8)
    )
    collapsed = RemedyPoint(
        remedy="layerwise",
        settings={"weight": 0.9},
        gain=None,
        worst_loss=None,
        chance=None,
        problem="collapsed: 9.12 nats per token on books, 5.30 before",
    )
    merged = RemedyAttempt(
        tried=("interpolation", "layerwise"),
        points=(*points, collapsed),
        remedy="interpolation",
        settings={"weight": 0.4},
        version="4-c0ffee13",
        update="d00dfeed00000000",
        verdict="AMBIGUOUS",
        reason="web: held-out loss may be up to 0.053 nats per token above that of 2-beefbeef.",
        alpha=0.025,
        scored_tokens=812_331,
        seconds=93.2,
    )
    return (
        merged,
        RemedyAttempt(
            tried=("more_replay",),
            points=(),
            remedy=None,
            settings={},
            version="",
            update="",
            verdict=None,
            reason="The budget of tokens does not allow another training.",
            alpha=0.025,
        ),
    )


def scores(
    seed: int, shift: float, base: tuple[DocumentScore, ...] = ()
) -> tuple[DocumentScore, ...]:
    rng = np.random.default_rng(seed)
    if base:
        return tuple(
            replace(row, nats=row.nats + row.targets * rng.normal(shift, 0.04)) for row in base
        )
    return tuple(
        DocumentScore(f"d{n}", f"site{n % 45}", 800 * rng.normal(3.1 + shift, 0.2), 800, 3300)
        for n in range(120)
    )


def slice_of(domain: str, role: Any, shift: float, seed: int) -> SliceScores:
    champion = scores(seed, 0.1 * seed)
    return SliceScores(
        name=f"{domain}@a1b2c3d4e5f6",
        domain=domain,
        snapshot="a1b2c3d4e5f6",
        role=role,
        candidate=scores(seed + 1, shift, champion),
        champion=champion,
        earlier=(EarlierScores(version="1-0aa4", scores=scores(seed + 2, -0.01, champion)),)
        if role == "old"
        else (),
    )


def verdict_of(**shifts: float) -> VerdictReport:
    slices = [slice_of("news-2026-11", "new", -0.14, 1), slice_of("code", "new", -0.09, 4)]
    slices += [
        slice_of(domain, "old", shift, 7 + 3 * index)
        for index, (domain, shift) in enumerate(shifts.items())
    ]
    return decide(
        slices,
        CheckConfig(),
        health=HEALTH,
        candidate="3-c0ffee12",
        champion="2-beefbeef",
        suite="5a17e0000001",
    )


def plan_of(domain: str) -> UpdatePlan:
    def stream(domain: str, snapshot: str, parts: int, *, is_replay: bool) -> Stream:
        return Stream(
            snapshot=snapshot,
            domain=domain,
            prefix=f"lineages/demo/snapshots/{snapshot}/{domain}/train",
            parts=parts,
            samples=1900,
            available=2400,
            is_replay=is_replay,
        )

    recipe = Recipe(seq_len=512, global_batch_samples=16)
    schedule = Schedule(
        kind="cosine",
        eta_max=1e-3,
        eta_min=1e-4,
        eta_const=5e-4,
        warmup_tokens=80_000,
        cooldown_tokens=0,
        decay_tokens=0,
        total_tokens=1_638_400,
    )
    train = TrainPlan(
        lineage="demo",
        update="c0ffee1234567890",
        checkpoint_prefix="lineages/demo/updates/c0ffee1234567890/checkpoints",
        initial="lineages/demo/updates/beefbeef00000000/checkpoints/step-400",
        model=ModelConfig(
            vocab_size=4096,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=128,
        ),
        start_id=0,
        end_id=0,
        mixture=Mixture(
            streams=(
                stream(domain, "f00df00df00d", 2048, is_replay=False),
                stream("code", "f00df00df00d", 1024, is_replay=False),
                stream("web-en", "a1b2c3d4e5f6", 683, is_replay=True),
                stream("books", "a1b2c3d4e5f6", 341, is_replay=True),
            ),
            seed=0,
        ),
        schedule=schedule,
        optimizer=recipe.optimizer,
        seq_len=512,
        global_batch_samples=16,
        micro_batch_size=8,
        num_steps=200,
        precision="bf16",
        seed=0,
        checkpoint_every_steps=100,
        trunk_step=200,
    )
    return UpdatePlan(
        id="c0ffee1234567890",
        version="3-c0ffee12",
        lineage="demo",
        champion="2-beefbeef",
        trunk="lineages/demo/updates/beefbeef00000000/checkpoints/step-400",
        snapshots=("f00df00df00d",),
        new_tokens=1_221_013,
        replay="0b0b0b0b0b0b",
        replay_share_requested=0.25,
        replay_share=0.25,
        suite="5a17e0000001",
        recipe=recipe,
        train=train,
        gain=Guard(
            label="new data",
            slices=(f"{domain}@f00df00df00d", "code@f00df00df00d"),
            clusters=90,
            held_out_clusters=90,
            tokens=192_480,
            margin=0.02,
            spread=0.05,
            detectable=0.013,
        ),
        guards=(
            Guard(
                label="web-en",
                slices=("web-en@a1b2c3d4e5f6",),
                clusters=45,
                held_out_clusters=45,
                tokens=96_240,
                margin=0.05,
                spread=0.05,
                detectable=0.019,
            ),
            Guard(
                label="poems",
                slices=("poems@a1b2c3d4e5f6",),
                clusters=3,
                held_out_clusters=3,
                tokens=2_240,
                margin=0.05,
                spread=0.05,
                detectable=None,
                is_guarded=False,
            ),
        ),
        unguarded=("poems: 3 clusters are too few to show a loss of 0.05; hold out more.",),
    )


def snapshot_of(*domains: str) -> SnapshotManifest:
    return SnapshotManifest(
        id="f00df00df00d",
        lineage="demo",
        identity="f00df00df00d" + "0" * 52,
        content="0" * 64,
        role="new",
        minted_at="2026-11-20T02:00:00Z",
        tokenizer="lineages/demo/tokenizers/abc",
        vocab_size=4096,
        start_id=0,
        end_id=0,
        seq_len=512,
        token_dtype="uint16",
        domains=tuple(
            DomainSlice(
                domain=domain,
                train_samples=1900,
                train_tokens=972_133,
                train_documents=1204,
                holdout_documents=120,
                holdout_clusters=45,
                holdout_tokens=96_240,
                source_names=("feeds",),
                licences=("CC-BY-4.0",),
            )
            for domain in domains
        ),
        documents_read=1400,
        documents_dropped={"duplicate": 76},
        lines_rejected={},
        files=(FileDigest("unigram.bin", 32768, "0" * 64),),
    )


def metrics_of(domain: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps: list[dict[str, Any]] = []
    for step in range(1, 201):
        loss = 2.9 + 0.6 * math.exp(-step / 40) + 0.03 * rng.normal()
        rate = 1e-3 * min(1.0, step / 10) * (0.55 + 0.45 * math.cos(math.pi * step / 200))
        steps.append(
            {
                "step": step,
                "tokens_seen": step * 8192,
                "train/loss": loss,
                "train/lr": rate,
                f"train/loss/{domain}": loss + 0.1 if step % 7 else None,
                "train/loss/web-en": loss - 0.3 + 0.02 * rng.normal(),
                "train/loss/code": loss - 0.9 + 0.02 * rng.normal(),
            }
        )
    return steps


def example(verdict: VerdictReport, *, domain: str = "news-2026-11") -> ReportInput:
    slices = (
        "web-en@a1b2c3d4e5f6",
        "books@a1b2c3d4e5f6",
        "code@f00df00df00d",
        f"{domain}@f00df00df00d",
    )
    return ReportInput(
        plan=plan_of(domain),
        verdict=verdict,
        matrix=ForgettingMatrix(
            slices=slices,
            rows=(
                MatrixRow(
                    version="1-0aa4",
                    decision="published",
                    is_champion=False,
                    nats_per_token=(3.412, 3.804, None, None),
                ),
                MatrixRow(
                    version="2-beefbeef",
                    decision="published",
                    is_champion=True,
                    nats_per_token=(3.398, 3.821, 2.94, 3.51),
                ),
                MatrixRow(
                    version="3-c0ffee12",
                    decision="awaiting",
                    is_champion=False,
                    nats_per_token=(3.441, 3.822, 2.851, 3.377),
                ),
            ),
        ),
        snapshots=(snapshot_of(domain, "code"),),
        metrics=metrics_of(domain),
        goodput=GOODPUT,
        code_version="0.1.0",
        written_at="2026-11-20T03:12:44Z",
    )


GOODPUT = Goodput(
    productive_seconds=930.5,
    start_seconds=41.0,
    data_seconds=3.2,
    save_seconds=11.0,
    restore_seconds=0.0,
    lost_seconds=0.0,
)
VERDICTS = {
    "PASS": replace(
        verdict_of(web=0.01, books=-0.02), numbers=numbers_of(), task_rows=tasks_of(violated=False)
    ),
    "AMBIGUOUS": replace(verdict_of(web=0.048, books=-0.02), numbers=numbers_of()),
    "FAIL": replace(
        verdict_of(web=0.12, books=-0.02),
        numbers=numbers_of(),
        remedies=remedies_of(),
        task_rows=tasks_of(violated=True),
    ),
}
"""By outcome."""
