"""What a training run *is*: every value here can change the weights that come out.

Where a run happens (store, cluster, number of workers) never enters these classes. They are plain
frozen dataclasses, so that the core of ``training/`` needs no pydantic; ``flows/`` validates YAML
into them through ``__pydantic_config__``, and all of them are written to JSON with
``dataclasses.asdict``. Identities are made of ``training.identity.identity_fields`` instead, to
which a field that is added later is new only where it is used: give it ``metadata=ADDED_LATER``.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import FORBID_UNKNOWN, Bounds
from training.decoder.config import ModelConfig
from training.identity import ADDED_LATER
from training.release import Release, ReleaseConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignConfig:
    """Architecture of any other causal model, which ``transformers`` computes."""

    model_type: str
    """As config.json names the family."""
    vocab_size: int
    """Rows of the embedding."""
    max_position_embeddings: int
    """Longest sequence, tokens; a very large number where the family has no limit."""
    packing: Literal["positions", "mask", "rows"]
    """How several documents in a row are kept apart, see ``training.foreign.packing``; found when
    the model was imported, and the same in all its updates."""
    fields: str
    """All of config.json that can change what is computed, as canonical JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """The learning-rate plan in relative terms; ``training.schedule.resolve`` makes it absolute."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    kind: Literal["cosine", "constant", "wsd", "infinite"] = "cosine"
    """``cosine``: re-warm and re-decay (Ibrahim et al. 2024). ``wsd``: warm up, stay, decay as 1 -
    sqrt.
    ``infinite``: warm-up and cooldown once in a lineage's life, then constant; each release is
    annealed on a branch."""
    eta_max: Annotated[float, Bounds(gt=0, lt=1)] = 1e-3
    """Peak learning rate."""
    eta_min_ratio: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    """Learning rate at the end, as a share of ``eta_max``."""
    eta_const_ratio: Annotated[float, Bounds(gt=0, le=1)] = 0.5
    """``infinite``: the constant learning rate, as a share of ``eta_max``."""
    warmup_fraction: Annotated[float, Bounds(ge=0, lt=1)] = 0.02
    """Share of the update's tokens spent warming up."""
    decay_fraction: Annotated[float, Bounds(ge=0, le=1)] = 0.2
    """``wsd`` and ``infinite``: share of the update's tokens spent in the final decay (the
    anneal)."""
    cooldown_fraction: Annotated[float, Bounds(ge=0, lt=1)] = 0.2
    """``infinite``: share of the *first* update's tokens spent going from ``eta_max`` to the
    constant rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and what surrounds it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    beta1: Annotated[float, Bounds(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Bounds(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Bounds(gt=0)] = 1e-8
    weight_decay: Annotated[float, Bounds(ge=0)] = 0.1
    """Decoupled; on matrices only, not on norms and biases."""
    max_grad_norm: Annotated[float, Bounds(gt=0)] = 1.0
    """Global gradient-norm clip."""
    moments: Literal["keep", "reset"] = "keep"
    """What becomes of AdamW's moments at the start of an update; an imported base has none to
    keep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train one update, before its length is known."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    seq_len: Annotated[int, Bounds(gt=0, unit="tokens")] = 1024
    """Inputs of one sample; fixed when the lineage starts."""
    global_batch_samples: Annotated[int, Bounds(gt=0, unit="samples")] = 256
    """Samples of one optimizer step, over all workers and accumulation steps."""
    micro_batch_size: Annotated[int, Bounds(gt=0, unit="samples")] = 8
    """Samples of one forward pass on one worker. Bounds memory."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Literal["bf16", "fp32"] = "bf16"
    """``bf16``: autocast, weights and moments stay fp32."""
    seed: Annotated[int, Bounds(ge=0, le=2**63 - 1)] = 0
    """Seeds initial weights and the order of samples."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig, metadata=ADDED_LATER)
    """Which weights are judged and published."""

    @property
    def global_batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.global_batch_samples * self.seq_len


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning-rate plan in absolute tokens of one update, for ``training.schedule.lr_at``."""

    kind: Literal["cosine", "constant", "wsd", "infinite"]
    eta_max: float
    eta_min: float
    eta_const: float
    warmup_tokens: int
    cooldown_tokens: int
    decay_tokens: int
    total_tokens: int
    """Tokens of this update, the anneal included."""
    trunk_tokens: int = 0
    """``infinite``: tokens of the trunk before this update; warm-up and cooldown count from the
    trunk's start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """One input of a mixture: training samples of one domain of one snapshot."""

    snapshot: str
    domain: str
    prefix: str
    """Prefix of the MDS shards in the store."""
    parts: int
    """Share of the mixture, as parts of ``Mixture.total_parts``."""
    samples: int
    """Samples drawn from: the first so many of the slice's keyed permutation, all of them for new
    data."""
    available: int
    """Training samples of the slice."""
    is_replay: bool
    drawn_before: int = field(default=0, metadata=ADDED_LATER)
    """Samples of it that an update that was taken over has drawn; the next one goes on from
    there."""

    @property
    def name(self) -> str:
        """``<domain>@<snapshot>``."""
        return f"{self.domain}@{self.snapshot}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """New data and replay with exact proportions; determines the order of all samples."""

    streams: tuple[Stream, ...]
    seed: int
    first_slot: int = field(default=0, metadata=ADDED_LATER)
    """Samples of the update before these shares held: they are counted from there on. Not 0 only
    when an update was taken over under another mixture or batch size."""

    @property
    def total_parts(self) -> int:
        """Length of the period after which every stream has had exactly its share."""
        return sum(stream.parts for stream in self.streams)


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOver:
    """The earlier update that a plan goes on from; ``TrainPlan.initial`` is its checkpoint."""

    update: str
    """Its id."""
    step: int
    """Steps of it that were taken; what came after them is left."""
    mode: Literal["continue", "new_phase", "weights_only", "branch"]
    """``continue``: its tokens, moments and skips count on, under new values. ``new_phase``: a new
    schedule from its start, moments as the optimizer's configuration says. ``weights_only``: the
    same, with fresh moments. ``branch``: its batches, under a decay of the learning rate alone."""
    first_step: int
    """Steps of the plan that count as taken: its first batch is that of this step (0-based)."""
    trunk: str | None = None
    """Checkpoint that the next update continues from, when it is none of the plan's own."""
    is_published: bool = False
    """Its steps are in the ledger of a version that was published; in this plan's if not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPlan:
    """One update's training, complete. Its JSON is stored as part of ``plan.json``."""

    lineage: str
    update: str
    """Update id."""
    checkpoint_prefix: str
    """Where checkpoints go: ``<prefix>/step-<n>/``."""
    initial: str | None
    """Prefix of the checkpoint or Hugging Face directory to start from; None: random weights from
    the seed."""
    model: ForeignConfig | ModelConfig
    start_id: int
    end_id: int
    mixture: Mixture
    schedule: Schedule
    optimizer: OptimizerConfig
    seq_len: int
    global_batch_samples: int
    micro_batch_size: int
    num_steps: int
    precision: Literal["bf16", "fp32"]
    seed: int
    checkpoint_every_steps: int
    trunk_step: int
    """Step whose checkpoint the next update continues from; ``num_steps`` unless the schedule
    anneals on a branch."""
    taken_over: TakenOver | None = field(default=None, metadata=ADDED_LATER)
    """Where ``initial`` comes from, when it is no trunk but a checkpoint of an update that was left
    or is branched from."""
    release: Release = field(default_factory=Release, metadata=ADDED_LATER)
    """What is published of it."""

    @property
    def global_batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.global_batch_samples * self.seq_len

    @property
    def first_step(self) -> int:
        """Steps that count as taken when the run begins."""
        return self.taken_over.first_step if self.taken_over else 0

    @property
    def trunk(self) -> str:
        """Prefix of the checkpoint that the next update continues from."""
        elsewhere = self.taken_over.trunk if self.taken_over else None
        return elsewhere or f"{self.checkpoint_prefix}/step-{self.trunk_step}"

    @property
    def release_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints are averaged for the release; none when it is the last."""
        return self.release.steps_before(self.num_steps, self.first_step)

    @property
    def needed_steps(self) -> frozenset[int]:
        """Steps whose checkpoints something relies on after the run."""
        return frozenset((self.trunk_step, self.num_steps, *self.release_steps))

    def saves_at(self, step: int) -> bool:
        """Whether the state after ``step`` steps is stored."""
        return step in self.needed_steps or step % self.checkpoint_every_steps == 0

    def grad_accum_steps(self, world_size: int) -> int:
        """Forward passes per optimizer step on each of ``world_size`` workers.

        Raises:
            ValueError: The workers cannot share a global batch evenly.
        """
        if self.global_batch_samples % world_size:
            raise ValueError(
                f"{world_size} workers cannot share the {self.global_batch_samples} samples of a "
                "global batch evenly: choose a number of workers that divides global_batch_samples"
            )
        per_worker = self.global_batch_samples // world_size
        return -(-per_worker // self.micro_batch_size)
