"""Watches every step: what is not finite is passed over, what went wrong is gone back from.

Every rank judges the same numbers and comes to the same decision; rank 0 records it. A decision is
durable before anything follows from it, and a rewind is no more than a new start from the store: a
kill at any moment of it leaves the run before or behind it.
"""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NoReturn

from storage.layout import Layout
from storage.objects import ObjectStore
from training import metrics
from training.checkpoint.state import TrainState
from training.config import TrainPlan
from training.data.order import Order
from training.errors import TrainingDivergedError
from training.guard.rewind import steps_back
from training.guard.skips import Reason, Skip, Skips, digest_of, record_skip, samples_of
from training.guard.spike import HISTORY_STEPS, first_beyond, floor_at
from training.guard.weight_check import CHECK_EVERY_STEPS, WeightCheck
from training.loop import StepResult

logger = logging.getLogger(__name__)

MAX_NOT_FINITE = 5
NOT_FINITE_WITHIN_STEPS = 100
"""More batches than that many in so many that are not finite are no accidents of the data: 5% of
what was to be learned is lost, and weights that are broken lose every batch from then on."""


class RewindError(Exception):
    """The run goes on from an earlier checkpoint; raised on every rank when that is on record."""


def recent_losses(
    store: ObjectStore, plan: TrainPlan, skips: Skips, step: int
) -> list[list[float]]:
    """Step and loss of the last steps up to ``step`` that were learned from, as the journal says.

    The journal has them all: its rows are durable before the checkpoint that a run resumes from.
    """
    after = max(0, step - HISTORY_STEPS - len(skips.steps_before(step)))
    rows = metrics.read_metrics(store, Layout(plan.lineage).metrics(plan.update), after_step=after)
    return [
        [row[metrics.STEP], row[metrics.LOSS]]
        for row in rows
        if row[metrics.STEP] <= step and metrics.LOSS in row
    ]


class Guard:
    """Judges every step of one rank.

    Args:
        store: Where skips are recorded.
        plan: What is trained.
        order: Of its samples.
        state: Weights that are sound, and the skips so far, which are kept current.
        losses: From ``recent_losses``.
        rank: This worker; rank 0 records.
        num_copies: Of the whole model among the workers.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: TrainPlan,
        order: Order,
        state: TrainState,
        losses: Iterable[list[float]],
        *,
        rank: int,
        num_copies: int,
    ) -> None:
        self._store, self._plan, self._order, self._state = store, plan, order, state
        self._losses = deque(((int(step), loss) for step, loss in losses), maxlen=HISTORY_STEPS)
        self._records = rank == 0
        self._weights = WeightCheck(state.model, plan.optimizer, num_copies=num_copies)
        self._sound_at_step = state.step

    def is_skipped(self, step: int) -> bool:
        """Whether the batch of ``step`` (0-based) is passed over."""
        return self._state.skips.covers(step)

    def judge(self, result: StepResult) -> Mapping[str, float]:
        """Look at a step that was just taken; returns what the journal should say of it.

        Nothing of the step may be stored before: no checkpoint has weights that were not looked at.

        Raises:
            RewindError: The run must go on from an earlier checkpoint.
            TrainingDivergedError: A person must look at it.
        """
        found: dict[str, float] = {}
        if result.is_learned:
            self._weights.add_step(result.lr)
            self._losses.append((result.step, result.nats_per_token))
        is_not_finite = not (result.is_learned or result.is_skipped)
        if is_not_finite or self._is_checked_at(result):
            norms, finding = self._weights.look()
            if finding:
                self._undo_corruption(result, finding)
            self._sound_at_step = result.step
            if result.step % CHECK_EVERY_STEPS == 0:
                found[metrics.WEIGHT_NORM] = self._weights.total_of(norms)
        if is_not_finite:
            self._pass_over(result)
        elif result.is_learned:
            self._look_for_spike(result)
        skips = self._state.skips
        found[metrics.SKIPPED_STEPS] = len(skips.steps_before(result.step))
        found[metrics.REWINDS] = skips.num_rewinds
        return found

    def _is_checked_at(self, result: StepResult) -> bool:
        is_due = result.step % CHECK_EVERY_STEPS == 0
        return is_due or self._plan.saves_at(result.step) or result.is_last_of_life

    def _pass_over(self, result: StepResult) -> None:
        """Nothing was learned from this batch, because it is not finite."""
        recent = [
            skip.first_step
            for skip in self._state.skips.in_force
            if skip.reason == "not finite"
            and result.step - NOT_FINITE_WITHIN_STEPS < skip.first_step < result.step
        ]
        if len(recent) >= MAX_NOT_FINITE:
            raise TrainingDivergedError(
                f"at most {MAX_NOT_FINITE} of {NOT_FINITE_WITHIN_STEPS} steps may have a loss or "
                f"gradient norm that is not finite, and so have step {result.step} "
                f"({_measured(result)}) and those after steps {', '.join(map(str, recent))}; the "
                "weights are those of the step before, lower eta_max or look at the samples"
            )
        finding = f"the loss or the gradient norm was not finite: {_measured(result)}"
        self._record("not finite", result.step - 1, result.step, result.step, finding)

    def _look_for_spike(self, result: StepResult) -> None:
        plan = self._plan
        losses = [loss for _, loss in self._losses]
        age = first_beyond(losses, floor=floor_at(result.step, plan))
        if age is None:
            return
        began_at = self._losses[-1 - age][0]
        what = f"the loss rose from {losses[-1 - age - 1]:.3f} to {max(losses[-1 - age :]):.3f}"
        for earlier in self._state.skips.in_force:
            near = range(earlier.first_step, earlier.end_step + steps_back(plan) + 1)
            if earlier.reason == "spike" and began_at - 1 in near:
                raise TrainingDivergedError(
                    f"{what} nats per token from step {began_at} on, although steps "
                    f"{earlier.first_step + 1} to {earlier.end_step} were passed over because of "
                    f"a spike after step {earlier.found_at_step}; look at the data of the "
                    f"snapshots {', '.join(sorted({s.snapshot for s in plan.mixture.streams}))} "
                    "and at the gradient norms before it, then lower eta_max, or hold the data back"
                )
        back = steps_back(plan)
        first = max(plan.first_step, began_at - 1 - back)
        end = min(plan.num_steps, result.step + 2 * back)
        finding = f"{what} nats per token from step {began_at} on"
        self._go_back("spike", first, end, result.step, finding)

    def _undo_corruption(self, result: StepResult, finding: str) -> NoReturn:
        sound = self._sound_at_step
        last = self._state.skips.recorded[-1] if self._state.skips.recorded else None
        if last is not None and (last.reason, last.first_step) == ("corruption", sound):
            raise TrainingDivergedError(
                f"{finding} changed by themselves between steps {sound} and {result.step}, twice "
                "in a row, and only the optimizer may change them; test that machine's memory and "
                "processor, and give all workers the same kind of processor and number of threads"
            )
        what = f"{finding} changed by themselves between steps {sound} and {result.step}"
        self._go_back("corruption", sound, sound, result.step, what)

    def _go_back(
        self, reason: Reason, first_step: int, end_step: int, step: int, finding: str
    ) -> NoReturn:
        self._record(reason, first_step, end_step, step, finding)
        passed = f", passing over steps {first_step + 1} to {end_step}" * (end_step > first_step)
        raise RewindError(
            f"after step {step} training goes on from the newest checkpoint of step {first_step} "
            f"or before{passed}: {finding}"
        )

    def _record(
        self, reason: Reason, first_step: int, end_step: int, step: int, finding: str
    ) -> None:
        samples = samples_of(self._order, range(first_step, end_step))
        rows: dict[str, list[int]] = {}
        if reason == "not finite":
            for index, stream in enumerate(self._plan.mixture.streams):
                rows[stream.name] = samples[samples[:, 0] == index, 1].tolist()
        skip = Skip(
            number=len(self._state.skips.recorded),
            reason=reason,
            first_step=first_step,
            end_step=end_step,
            found_at_step=step,
            samples_sha256=digest_of(samples),
            samples=rows,
            finding=finding,
        )
        if self._records:
            record_skip(self._store, self._plan, skip)
            logger.warning("skip %d of %s: %s", skip.number, self._plan.update, finding)
        self._state.skips = self._state.skips.with_skip(skip)


def _measured(result: StepResult) -> str:
    return f"{sum(result.nats_by_stream):g} nats, gradient norm {result.grad_norm:g}"
