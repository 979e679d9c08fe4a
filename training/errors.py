"""What can go wrong while training. Each takes one ready-made message.

* TrainingError
  - TrainingDivergedError   a loss or gradient is not finite
  - PlanMismatchError       a checkpoint was written under another plan
"""


class TrainingError(Exception):
    """Base class: catch this to handle any failure of training itself."""


class TrainingDivergedError(TrainingError):
    """The loss or the gradient norm is not finite; the weights are those of the step before."""


class PlanMismatchError(TrainingError):
    """A stored state belongs to another plan; the message names the field."""
