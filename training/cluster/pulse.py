"""How far a rank is and how long its own work takes, for whoever watches over the ranks.

A rank's own work is what it does between two exchanges with the others: waiting for data, forward
and backward passes, the update, recording. Time spent waiting for other ranks is left out, or a
slow rank would make all of them look slow. Costs a few microseconds a step.
"""

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

PHASES = (
    "waiting for the others before the forward pass",
    "in the forward and backward passes",
    "waiting for the others' gradients",
    "between two steps (update, checkpoint, data)",
)
"""Of a step, in their order; a rank's progress counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What one rank tells of itself, every second or so."""

    rank: int
    host: str
    node: str
    """Id of Ray's node; empty without Ray."""
    pid: int
    count: int
    """Rises with every beat: one that stays the same tells that the process is silent."""
    progress: int
    """Phases that were begun, counted over the whole plan; what is behind is the smallest."""
    num_steps: int
    """Steps that this life has measured."""
    busy_seconds: float
    """Own work of those steps, summed."""
    stage: str = ""
    """What happens before the first step, for people; empty from then on."""

    @property
    def who(self) -> str:
        """For people: the rank and where it is."""
        return f"rank {self.rank} on {self.host} (process {self.pid})"

    @property
    def where(self) -> str:
        """For people: the step and its phase."""
        step, phase = divmod(self.progress, len(PHASES))
        return f"in step {step}, {PHASES[phase]}"


class Pulse:
    """Follows one rank by hooks of its model and optimizer; read from another thread.

    Args:
        rank: Of this process.
        node: Id of Ray's node.
    """

    def __init__(self, rank: int, *, node: str = "") -> None:
        self._rank, self._node, self._host = rank, node, socket.gethostname()
        self._step = 0
        self._phase = len(PHASES) - 1
        self._num_beats = self._num_steps = 0
        self._busy_seconds = 0.0
        self._stage = "starting"
        # None until this step's event was seen: with sharded parameters some never are.
        self._forward_at: float | None = None
        self._gradients_at: float | None = None
        self._left_exchange_at: float | None = None

    def watch(self, model: "nn.Module", optimizer: "torch.optim.Optimizer", step: int) -> None:
        """Follow ``model``, as the loop calls it, and its optimizer, after ``step`` steps."""
        self._step = step
        model.register_forward_pre_hook(self._on_forward)
        # The parameters that come first get their gradients last.
        next(model.parameters()).register_post_accumulate_grad_hook(self._on_gradient)
        optimizer.register_step_pre_hook(self._on_update)

    def begin_stage(self, stage: str) -> None:
        """Say what happens until the next stage or step."""
        self._stage = stage

    def begin_step(self) -> None:
        """Called right before the exchange that opens a step."""
        now = time.perf_counter()
        if None not in (self._left_exchange_at, self._forward_at, self._gradients_at):
            assert self._left_exchange_at is not None
            assert self._forward_at is not None
            assert self._gradients_at is not None
            self._busy_seconds += now - self._left_exchange_at
            self._busy_seconds += self._gradients_at - self._forward_at
            self._num_steps += 1
        self._forward_at = self._gradients_at = self._left_exchange_at = None
        self._step, self._phase = self._step + 1, 0
        # The first step may wait long for its batch, its kernels or other ranks.
        if self._num_steps:
            self._stage = ""

    def read(self) -> Beat:
        """The next beat."""
        self._num_beats += 1
        return Beat(
            rank=self._rank,
            host=self._host,
            node=self._node,
            pid=os.getpid(),
            count=self._num_beats,
            progress=self._step * len(PHASES) + self._phase,
            num_steps=self._num_steps,
            busy_seconds=self._busy_seconds,
            stage=self._stage,
        )

    def _on_forward(self, _model: Any, _inputs: Any) -> None:
        self._phase = 1
        if self._forward_at is None:
            self._forward_at = time.perf_counter()

    def _on_gradient(self, _parameter: Any) -> None:
        # Of several micro batches the last one counts.
        self._gradients_at, self._phase = time.perf_counter(), 2

    def _on_update(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        self._left_exchange_at, self._phase = time.perf_counter(), 3
