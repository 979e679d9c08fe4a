"""From an exception to one sentence for the terminal: what went wrong, where, and what to do."""

import errno

from flows.lineage_yaml import LineageError
from flows.mirror import MirrorError
from infra.stack.state import StackError
from infra.versions import UnsafeVersionError
from storage.errors import StorageError
from tasks.documents import SourceRefusedError
from tasks.plan_changes import ConfigurationChangedError
from training.errors import TrainingError

EXPECTED = (
    LineageError,
    MirrorError,
    SourceRefusedError,
    StackError,
    StorageError,
    TrainingError,
    UnsafeVersionError,
    ValueError,
)
"""What a user can cause or mend: the message says everything, the class is not shown."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def sentence_of(error: BaseException) -> str:
    """What to tell the user; an error that nobody foresaw is told with its class."""
    if isinstance(error, EXPECTED):
        return str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return _sentence_of_os_error(error)
    if isinstance(error, MemoryError):
        return (
            f"not enough memory: {error or 'no size told'}; lower recipe.micro_batch_size, "
            "recipe.seq_len or the model's sizes, or use a larger machine"
        )
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def is_expected(error: BaseException) -> bool:
    """Whether the sentence says it all, so that nobody needs the traceback."""
    return isinstance(error, (*EXPECTED, OSError, MemoryError))


def exit_code_of(error: BaseException) -> int:
    """2 for a lineage file that cannot be used, or not for what was begun; 1 for all else."""
    return 2 if isinstance(error, LineageError | ConfigurationChangedError) else 1


def _sentence_of_os_error(error: OSError) -> str:
    found = (error.strerror or type(error).__name__).lower()
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _NO_ROOM:
        return (
            f"no room to write{where}: {found}; make room ('perennial gc' lists what nothing needs "
            "any more) or raise the limit, then run the same command again: it goes on"
        )
    if error.errno in _NOT_ALLOWED:
        return (
            f"this user may not read or write{where}: {found}; correct owner and mode, or "
            "set PERENNIAL_HOME to a folder that may be written"
        )
    return f"the system refused{where}: {found}; mend that, then run the same command again"
