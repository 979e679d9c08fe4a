"""What of a run is published: its last checkpoint, or an average of several. Needs no torch.

Averages are made of stored checkpoints after the training, so that a run that was killed has the
same as one that was not. The trunk, from which the next update continues, is never averaged.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import FORBID_UNKNOWN, Bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseConfig:
    """Which weights are judged and published; how to train on is not affected."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    kind: Literal["last", "lawa", "ema"] = "last"
    """``last``: those after the last step. ``lawa``: the mean of the last checkpoints (Kaddour
    2022, arXiv:2209.14981; Sanyal et al. 2023, arXiv:2306.03241). ``ema``: an exponential average
    of them. Either takes the place of a decay of the learning rate: use it with schedule.kind
    constant, or infinite with decay_fraction 0; after a decay to nothing it gains nothing. While
    the loss still falls fast the average is worse than the last; the verdict tells."""
    checkpoints: Annotated[int, Bounds(gt=1, le=1000)] = 5
    """How many are averaged, the last one included. All stay in the store."""
    every_tokens: Annotated[int | None, Bounds(gt=0, unit="tokens")] = None
    """Distance between two of them; if not set they lie evenly over the second half of the
    update."""
    decay: Annotated[float, Bounds(gt=0, lt=1)] = 0.2
    """``ema``: share that the average keeps of itself at every checkpoint; the checkpoint gets the
    rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """``ReleaseConfig`` in absolute steps of one update."""

    kind: Literal["last", "lawa", "ema"] = "last"
    checkpoints: int = 1
    every_steps: int = 1
    decay: float = 0.0

    def steps_before(self, num_steps: int, first_step: int) -> tuple[int, ...]:
        """Steps whose checkpoints are averaged, ascending, up to ``num_steps``.

        None for ``last``, and none at or before ``first_step``, where an update that was taken over
        begins: so such an update may average fewer.
        """
        if self.kind == "last":
            return ()
        back = range(self.checkpoints - 1, -1, -1)
        steps = (num_steps - count * self.every_steps for count in back)
        return tuple(step for step in steps if step > first_step)

    def shares(self, count: int) -> tuple[float, ...]:
        """Of ``count`` checkpoints in the average, the oldest first; their sum is 1.

        ``ema`` is average = decay * average + (1 - decay) * checkpoint, begun with the oldest.
        """
        if self.kind != "ema":
            return (1 / count,) * count
        begun = self.decay ** (count - 1)
        rest = ((1 - self.decay) * self.decay**age for age in range(count - 2, -1, -1))
        return (begun, *rest)


def release_of(config: ReleaseConfig, *, num_steps: int, global_batch_tokens: int) -> Release:
    """The release of an update of ``num_steps``.

    Raises:
        ValueError: It is too short for so many checkpoints so far apart.
    """
    if config.kind == "last":
        return Release()
    count = config.checkpoints
    if config.every_tokens is None:
        every_steps = max(1, num_steps // (2 * (count - 1)))
    else:
        every_steps = max(1, config.every_tokens // global_batch_tokens)
    first = num_steps - (count - 1) * every_steps
    if first < 1:
        raise ValueError(
            f"release.checkpoints {count}, {every_steps} steps apart, must lie within the update, "
            f"which has {num_steps} steps: lower release.checkpoints or release.every_tokens"
        )
    return Release(
        kind=config.kind,
        checkpoints=count,
        every_steps=every_steps,
        decay=config.decay if config.kind == "ema" else 0.0,
    )


def describe_release(release: Release, steps: tuple[int, ...]) -> str:
    """What is published, in one line."""
    shares = release.shares(len(steps))
    how = "mean" if release.kind == "lawa" else "exponential average"
    parts = ", ".join(f"{step:,} ({share:.1%})" for step, share in zip(steps, shares, strict=True))
    return f"release: the {how} of the checkpoints of steps {parts}; the trunk is not averaged"
