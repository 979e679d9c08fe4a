"""Where everything of a lineage lies under the store's root. The only module that spells keys."""

# ruff: noqa: D102  the methods are named after what lies there

import re
from dataclasses import dataclass

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
KEEP_MARK = "keep.json"
"""Beside the manifest of a checkpoint that is permanent: it stays for as long as its update."""


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it is safe as one path component, else raise ValueError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{what} {name!r} is not a valid name: expected 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one lineage. Every method returns a key or a prefix without a trailing slash."""

    lineage: str

    def __post_init__(self) -> None:
        check_name(self.lineage, "lineage")

    @property
    def root(self) -> str:
        return f"lineages/{self.lineage}"

    @property
    def head_hint(self) -> str:
        return f"{self.root}/head.json"

    @property
    def lease(self) -> str:
        return f"{self.root}/lease.json"

    @property
    def projection(self) -> str:
        return f"{self.root}/projection.json"

    @property
    def heads(self) -> str:
        return f"{self.root}/heads"

    def head(self, number: int) -> str:
        return f"{self.heads}/{number}.json"

    def marks(self, digest: str) -> str:
        return f"{self.root}/marks/{digest}.json"

    def tokenizer(self, digest: str) -> str:
        return f"{self.root}/tokenizers/{digest}"

    @property
    def snapshots(self) -> str:
        return f"{self.root}/snapshots"

    def snapshot(self, snapshot: str) -> str:
        return f"{self.snapshots}/{snapshot}"

    def snapshot_manifest(self, snapshot: str) -> str:
        return f"{self.snapshot(snapshot)}/manifest.json"

    def shards(self, snapshot: str, domain: str, split: str) -> str:
        return f"{self.snapshot(snapshot)}/{check_name(domain, 'domain')}/{split}"

    def refresh_report(self, snapshot: str) -> str:
        return f"{self.root}/reports/refresh-{snapshot}.html"

    @property
    def all_near_duplicates(self) -> str:
        return f"{self.root}/near-duplicates"

    def near_duplicates(self, merge: str) -> str:
        return f"{self.all_near_duplicates}/{merge}"

    def replay(self, version: str) -> str:
        return f"{self.root}/replay/{version}"

    def replay_manifest(self, version: str) -> str:
        return f"{self.replay(version)}/manifest.json"

    def suite(self, version: str) -> str:
        return f"{self.root}/suite/{version}"

    def suite_manifest(self, version: str) -> str:
        return f"{self.suite(version)}/manifest.json"

    @property
    def all_trained_on(self) -> str:
        return f"{self.root}/suite/trained-on"

    @property
    def suite_items(self) -> str:
        return f"{self.root}/suite/items"

    def trained_on(self, items: str, snapshot: str) -> str:
        return f"{self.all_trained_on}/{items.removesuffix('.json')}-{snapshot}.json"

    @property
    def takedowns(self) -> str:
        return f"{self.root}/takedowns"

    def takedown(self, takedown: str) -> str:
        return f"{self.done_takedowns}/{takedown}.json"

    @property
    def done_takedowns(self) -> str:
        return f"{self.takedowns}/done"

    @property
    def begun_takedowns(self) -> str:
        return f"{self.takedowns}/begun"

    def begun_takedown(self, takedown: str) -> str:
        return f"{self.begun_takedowns}/{takedown}.json"

    @property
    def updates(self) -> str:
        return f"{self.root}/updates"

    def update(self, update: str) -> str:
        return f"{self.updates}/{update}"

    def plan(self, update: str) -> str:
        return f"{self.update(update)}/plan.json"

    def question(self, update: str) -> str:
        return f"{self.update(update)}/question.json"

    def taken_over(self, update: str) -> str:
        return f"{self.update(update)}/taken-over.json"

    def remedies(self, update: str) -> str:
        return f"{self.update(update)}/remedies.json"

    def checkpoints(self, update: str) -> str:
        return f"{self.update(update)}/checkpoints"

    def checkpoint_of(self, prefix: str) -> tuple[str, int]:
        """Update and step that a checkpoint's prefix names."""
        update, _, folder = prefix.removeprefix(f"{self.root}/updates/").split("/")
        return update, int(folder.removeprefix("step-"))

    def skips(self, update: str) -> str:
        return f"{self.update(update)}/skips"

    def lives(self, update: str) -> str:
        return f"{self.update(update)}/lives"

    def goodput(self, update: str) -> str:
        return f"{self.update(update)}/goodput.json"

    @property
    def ledgers(self) -> str:
        return f"{self.root}/ledger"

    def ledger(self, update: str) -> str:
        return f"{self.ledgers}/{update}.parquet"

    def metrics(self, update: str) -> str:
        return f"{self.update(update)}/metrics"

    @property
    def all_scores(self) -> str:
        return f"{self.root}/scores"

    def model_scores(self, weights: str) -> str:
        return f"{self.all_scores}/{weights[:16]}"

    @property
    def all_task_scores(self) -> str:
        return f"{self.root}/task-scores"

    def model_task_scores(self, weights: str) -> str:
        return f"{self.all_task_scores}/{weights[:16]}"

    def task_scores(self, weights: str, items: str) -> str:
        return f"{self.model_task_scores(weights)}/{items}"

    def model_looks(self, weights: str) -> str:
        return f"{self.root}/looks/{weights[:16]}"

    def look(self, weights: str, name: str) -> str:
        return f"{self.model_looks(weights)}/{name}.json"

    def units(self, snapshot: str, domain: str, content: str) -> str:
        return f"{self.snapshot(snapshot)}/units/{check_name(domain, 'domain')}-{content[:12]}.json"

    @property
    def models(self) -> str:
        return f"{self.root}/models"

    def model(self, version: str) -> str:
        return f"{self.models}/{version}"
