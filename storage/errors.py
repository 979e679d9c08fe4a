"""What can go wrong with stored state.

* StorageError
  - NotFoundError
  - AlreadyExistsError      a put-if-absent found the key taken
  - ConflictError           a put-if-match found another content
  - CorruptError            bytes read are not the bytes written
  - HeadMovedError          somebody else committed first, and it matters
  - LeaseHeldError          somebody else is updating the lineage
  - LeaseLostError          our lease was taken over while we slept
  - UnsafeStoreError        the store has no conditional writes to rely on
  - AccessError             the store refuses us: credentials, rights, clock, bucket
  - StoreFullError          the store has no room left
  - UnavailableError        the store did not answer in time; a retry may mend it
  - RunArtifactsError       MLflow, or what keeps its artifacts, does not show what hangs on a run

Each takes one ready-made message, so that it survives the pickling Ray workers and Prefect put it
through.
"""


class StorageError(Exception):
    """Base class: catch this to handle any storage failure."""


class NotFoundError(StorageError):
    """The key holds no object."""


class AlreadyExistsError(StorageError):
    """The key is taken; immutable objects are never overwritten."""


class ConflictError(StorageError):
    """The object changed since it was read."""


class CorruptError(StorageError):
    """An object is missing, short or altered; the message names it."""


class HeadMovedError(StorageError):
    """The lineage's head moved in a way that the pending change cannot be rebased on."""


class LeaseHeldError(StorageError):
    """Another process is updating the lineage."""


class LeaseLostError(StorageError):
    """The lease expired and was taken over; this process must stop."""


class UnsafeStoreError(StorageError):
    """The store has no conditional writes that can be relied on, so two writers could both win."""


class AccessError(StorageError):
    """The store refuses our credentials or the verb, or has no such bucket; a person must act."""


class StoreFullError(StorageError):
    """The store has no room left for us."""


class UnavailableError(StorageError, ConnectionError):
    """The store could not be reached, or kept failing, for as long as we tried.

    A ConnectionError as well: to whoever decides about retries it is one, and it may pass.
    """


class RunArtifactsError(StorageError):
    """What hangs on MLflow's runs cannot be listed or read; the message says what MLflow said."""
