"""How much memory a worker needs to train, in bytes, before anything is built. Needs no torch.

The most memory is in use at one of a few moments of a step: when the loss is computed, at the
beginning or the end of the backward pass, in the backward pass of a layer, or when the optimizer
runs. Each is added up part by part, and the largest is the estimate; its parts are those of that
moment. ``tests/benchmarks/bench_memory.py`` compares the sum with what torch's allocator handed
out; ``docs/results/memory.md`` has the pairs.

A native decoder is counted operation by operation, see ``training.parallel.activations``. Models
that transformers computes are estimated by the rule of ``training.parallel.foreign_size``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from training.config import ForeignConfig, ModelConfig, TrainPlan
from training.parallel.activations import Shape, Sizes, native_sizes
from training.parallel.config import ParallelConfig
from training.parallel.foreign_size import foreign_sizes

GIB = 2**30
_WIDE = 4
"""Bytes of a weight, of a gradient and of each moment: float32."""
_FRAMEWORK_BYTES = {"cpu": 750 * 2**20, "cuda": 600 * 2**20}
"""A process with torch and Ray, and what its kernels and malloc hold beside the tensors; a CUDA
context with its libraries' workspaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one worker at the moment of a step when it holds the most."""

    weights: int
    """float32, as all that follows unless it says otherwise; this worker's shards."""
    gradients: int
    """Those that are there at that moment."""
    moments: int
    """AdamW's two."""
    activations: int
    """What the backward pass needs, weights cast for the products included."""
    logits: int
    """Of the loss: logits and the gradients that are computed with them."""
    exchange: int
    """Buckets of DDP; gathered and scattered layers of FSDP."""
    host_buffers: int
    """Memory of the host that checkpoints are copied into; rank 0 has it."""
    framework: int
    """What a process takes of the device whatever the model."""
    device_type: Literal["cpu", "cuda"]
    is_rough: bool
    """transformers computes the model, and the activations are a rule of thumb."""

    @property
    def tensors(self) -> int:
        """What torch's allocator hands out."""
        model = self.weights + self.gradients + self.moments
        return model + self.activations + self.logits + self.exchange

    @property
    def total(self) -> int:
        """All that lies in the device's memory; on a processor that is the host's."""
        buffers = self.host_buffers if self.device_type == "cpu" else 0
        return self.tensors + self.framework + buffers

    def describe(self) -> str:
        """One line for people."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "moments": self.moments,
            "activations": self.activations,
            "loss": self.logits,
            "exchange": self.exchange,
            "checkpoint on rank 0": self.host_buffers if self.device_type == "cpu" else 0,
            "framework": self.framework,
        }
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        rough = ", activations by a rule of thumb" if self.is_rough else ""
        return f"about {self.total / GIB:.2f} GiB a worker ({listed}{rough})"


def estimate(
    model: ModelConfig | ForeignConfig,
    plan: TrainPlan,
    parallel: ParallelConfig,
    world_size: int,
    device_type: Literal["cpu", "cuda"],
) -> MemoryEstimate:
    """What each of ``world_size`` workers needs to train ``plan``.

    Args:
        model: Architecture.
        plan: Micro batch, sequence length, precision.
        parallel: Without ``auto``, see ``training.parallel.choose``; ``hsdp`` without
            ``shard_workers`` counts as sharded over all of them.
        world_size: Workers; must divide the plan's global batch.
        device_type: Where the model is.

    Raises:
        ValueError: The workers cannot share a global batch evenly, or ``parallel`` leaves something
            open.
    """
    if "auto" in (parallel.strategy, parallel.activation_checkpointing):
        raise ValueError(
            "memory can be estimated for a settled strategy and activation_checkpointing only, "
            f"found {parallel.strategy} and {parallel.activation_checkpointing}: choose first"
        )
    replicas = world_size // parallel.tensor_parallel
    micro_batches = plan.grad_accum_steps(replicas)
    rows = min(plan.micro_batch_size, plan.global_batch_samples // replicas)
    shape = Shape(
        rows=rows,
        seq_len=plan.seq_len,
        narrow=2 if plan.precision == "bf16" else 4,
        device=device_type,
        tensor_parallel=parallel.tensor_parallel,
    )
    is_rough = isinstance(model, ForeignConfig)
    sizes = foreign_sizes(model, shape) if is_rough else native_sizes(model, shape)
    step = _Step(sizes, shape, parallel, replicas, micro_batches)
    weights, moments = step.sharded(sizes.parameters), 2 * step.sharded(sizes.parameters)
    peak = max(step.moments(), key=lambda moment: moment.total)
    return MemoryEstimate(
        weights=weights,
        gradients=peak.gradients,
        moments=moments,
        activations=peak.activations,
        logits=peak.logits,
        exchange=peak.exchange,
        host_buffers=3 * _WIDE * sizes.parameters,
        framework=_FRAMEWORK_BYTES[device_type],
        device_type=device_type,
        is_rough=is_rough,
    )


@dataclass(frozen=True, slots=True)
class _Moment:
    """What comes and goes in a step, at one point of it."""

    gradients: int
    activations: int
    logits: int = 0
    exchange: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.activations + self.logits + self.exchange


@dataclass(frozen=True, slots=True)
class _Step:
    """A step's moments that may be its largest."""

    sizes: Sizes
    shape: Shape
    parallel: ParallelConfig
    replicas: int
    micro_batches: int

    def sharded(self, numbers: int) -> int:
        """Bytes of a worker's part of so many float32 numbers of the model."""
        return _WIDE * numbers // self._shards

    def moments(self) -> Iterator[_Moment]:
        """Every candidate."""
        gradients = self.sharded(self.sizes.parameters)
        yield from self._passes(gradients if self.micro_batches > 1 else 0)
        yield _Moment(gradients, 0, exchange=self._buckets)

    def _passes(self, accumulated: int) -> Iterator[_Moment]:
        """Forward and backward of the last micro batch, on top of the ``accumulated`` gradients."""
        sizes, layer = self.sizes, self.sizes.layer
        kept, again = self._kept_and_recomputed()
        stack = sizes.shared + sizes.num_layers * kept
        cached = 0 if kept >= layer.kept else sizes.num_layers * layer.cached_copies
        root, block = self._gathered(sizes.root_parameters), self._gathered(sizes.layer_parameters)
        # What is in no layer stays gathered, and so does the message that it came in.
        always = self._buckets + 2 * root
        in_loss = always + 2 * block
        yield _Moment(accumulated, stack + cached + sizes.head, sizes.loss, in_loss)
        yield _Moment(accumulated, stack + sizes.head, sizes.loss_gradients, in_loss)
        table, of_layer = self._whole(sizes.table), self.sharded(sizes.layer_parameters)
        # The gradient of a tied table waits for the embedding's, shards for the end of the root's.
        waiting = table if not accumulated or sizes.is_tied or root else 0
        # This layer and the next as messages and as weights, and the gradients on their way.
        exchange = always + 4 * block + (of_layer if block else 0)
        for above in {0, sizes.num_layers - 1}:
            below = sizes.shared + (sizes.num_layers - above) * kept + again
            gradients = waiting + (accumulated or above * of_layer)
            in_attention = below - layer.feed_forward + layer.attention_scratch
            yield _Moment(gradients, below + layer.feed_forward_scratch, exchange=exchange)
            yield _Moment(gradients, in_attention, exchange=exchange)
        yield from self._end(accumulated, always, table)

    def _end(self, accumulated: int, always: int, table: int) -> Iterator[_Moment]:
        """The embedding's gradient, the last."""
        sizes, inputs = self.sizes, self.sizes.shared + self.sizes.layer.input
        root = self._gathered(sizes.root_parameters)
        gradients = accumulated or self.sharded(sizes.parameters)
        if root:
            # Of the root as a whole, and once more where it is sent.
            yield _Moment(gradients + table * sizes.is_tied, inputs, exchange=always + root)
            return
        extra = table * ((accumulated > 0) + sizes.is_tied)
        yield _Moment(gradients + extra, inputs, exchange=always)

    def _kept_and_recomputed(self) -> tuple[int, int]:
        """Bytes a layer keeps until its backward pass, and those it computes again then."""
        layer = self.sizes.layer
        kept = {
            "none": layer.kept,
            "selective": min(layer.kept, layer.input + layer.products),
            "full": layer.input,
        }[self.parallel.activation_checkpointing]
        return kept, layer.kept - kept

    @property
    def _shards(self) -> int:
        """Workers that a weight is cut over."""
        ways = self.parallel.tensor_parallel
        within = {
            "ddp": 1,
            "fsdp": self.replicas,
            "hsdp": (self.parallel.shard_workers or 0) // ways or self.replicas,
        }[self.parallel.strategy]
        return within * ways

    @property
    def _buckets(self) -> int:
        """Bytes of the copies of all gradients that DDP sends."""
        is_alone = self.replicas == 1 or self.parallel.strategy != "ddp"
        return 0 if is_alone else self._whole(self.sizes.parameters)

    def _gathered(self, numbers: int) -> int:
        """Bytes of so many numbers where FSDP2 has gathered their shards; 0 without."""
        is_sharded = self._shards > self.parallel.tensor_parallel
        return self._whole(numbers) if is_sharded else 0

    def _whole(self, numbers: int) -> int:
        """Bytes of so many numbers as this worker computes with them."""
        return _WIDE * numbers // self.parallel.tensor_parallel
