"""The errors a user can cause or mend: shown as one sentence, without the name of a class."""

from flows.lineage import LineageError
from infra.versions import UnsafeVersionError
from storage.errors import StorageError
from tasks.documents import SourceRefusedError

EXPECTED = (LineageError, SourceRefusedError, StorageError, UnsafeVersionError, ValueError)
