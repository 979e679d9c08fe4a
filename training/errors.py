"""What can go wrong while training. Each takes one ready-made message.

* TrainingError
  - TrainingDivergedError   what was passed over or undone comes again, or too often
  - PlanMismatchError       a checkpoint was written under another plan
  - StaleLifeError          a newer life of the run has begun meanwhile
  - TrainingStoppedError    it was asked to stop before its end, and did
"""


class TrainingError(Exception):
    """Base class: catch this to handle any failure of training itself."""


class TrainingDivergedError(TrainingError):
    """Too many steps are not finite, or a spike or a corruption comes again: a person must look."""


class TrainingStoppedError(TrainingError):
    """The training was asked to stop and did, with a checkpoint; run again, it goes on from it."""


class PlanMismatchError(TrainingError):
    """A stored state belongs to another plan; the message names the field."""


class StaleLifeError(TrainingError):
    """A newer life of the run has begun; what this one would commit is refused."""
