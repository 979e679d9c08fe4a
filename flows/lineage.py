"""A lineage's YAML: one file, validated into one frozen value.

Unknown keys are refused with the nearest known name; a value out of bounds names the key, the value
and what is allowed. Nothing below ``flows/`` ever sees YAML.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from flows.review_config import ReviewConfig
from flows.schedule import TimetableConfig
from storage.layout import check_name
from tasks.curate import CurateConfig, check_rules_are_used
from tasks.decontamination.config import DecontaminateConfig
from tasks.evaluations.config import MintedConfig, TaskConfig
from tasks.judge.verdict import CheckConfig
from tasks.mix import ReplayConfig
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.refresh_request import RefreshConfig
from tasks.remedy.config import RemedyConfig
from tasks.sources import SourceConfig
from tasks.split import HoldoutConfig
from tasks.train import ComputeConfig
from tasks.update_plan import BudgetConfig
from training.config import FORBID_UNKNOWN, ModelConfig, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """What the lineage starts from: exactly one of ``model`` and ``directory``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    model: ModelConfig | None = None
    """Start from nothing: this architecture, and a tokenizer trained on the first data."""
    directory: str | None = None
    """Continue an existing model: a Hugging Face directory, safetensors and tokenizer.json."""
    reference: tuple[SourceConfig, ...] = ()
    """Text like what an existing model was trained on: guards what it knows, feeds replay."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.directory is None):
            raise ValueError(
                "expected exactly one of model (start from nothing) and directory (continue an "
                "existing model)"
            )
        if self.reference and self.directory is None:
            raise ValueError(
                "reference goes with directory: a model that starts from nothing knows nothing"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """One model kept up to date: everything that is configured about it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    name: str
    """Name of the lineage, also of the registered model: a-z, 0-9, '.', '_' and '-'."""
    base: BaseConfig
    sources: tuple[SourceConfig, ...]
    """Where new documents come from."""
    curate: CurateConfig = field(default_factory=CurateConfig)
    near_duplicates: NearDuplicateConfig | None = None
    """Which documents repeat an earlier one; a mapping, or ``fineweb`` for all defaults."""
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    recipe: Recipe = field(default_factory=Recipe)
    """How to train; ``name`` picks one of the named recipes, the other keys override its fields."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    tasks: tuple[TaskConfig, ...] = ()
    """Questions with right answers that every version is asked, beside its held-out text."""
    minted: MintedConfig = field(default_factory=MintedConfig)
    decontaminate: DecontaminateConfig | None = field(default_factory=DecontaminateConfig)
    """Keeps the items of ``tasks`` out of training; ``null``: what was trained on guards nothing,
    which is all that is done."""
    check: CheckConfig = field(default_factory=CheckConfig)
    remedy: RemedyConfig = field(default_factory=RemedyConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    schedule: TimetableConfig = field(default_factory=TimetableConfig)

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        names = [source.name for source in (*self.sources, *self.base.reference)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            where = "sources and base.reference" if self.base.reference else "sources"
            raise ValueError(
                f"{where}: source names must be unique, found twice: {', '.join(twice)}"
            )
        self._check_tasks()
        if not self.sources:
            raise ValueError("sources is empty: name at least one, with name, uri and domain")
        check_rules_are_used(self.curate, (*self.sources, *self.base.reference))
        self._check_sizes()

    def _check_tasks(self) -> None:
        against = self.decontaminate.against if self.decontaminate else ()
        names = [task.name for task in (*self.tasks, *against)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            where = "tasks and decontaminate.against" if against else "tasks"
            raise ValueError(f"{where}: names must be unique, found twice: {', '.join(twice)}")

    def _check_sizes(self) -> None:
        """Refuse what could only fail after the data were read."""
        batch, workers = self.recipe.global_batch_samples, self.compute.num_workers
        fewest, most = (workers, workers) if isinstance(workers, int) else workers
        if most and all(batch % count for count in range(fewest, most + 1)):
            shown = fewest if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"compute.num_workers {shown} does not divide recipe.global_batch_samples "
                f"{batch}: workers share a global batch evenly, so change one of the two"
            )
        model, seq_len = self.base.model, self.recipe.seq_len
        if model is not None and seq_len > model.max_position_embeddings:
            raise ValueError(
                f"recipe.seq_len {seq_len} is above base.model.max_position_embeddings "
                f"{model.max_position_embeddings}: lower one or raise the other"
            )
