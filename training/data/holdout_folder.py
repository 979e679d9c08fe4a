"""Where the held-out documents of one domain of one snapshot lie. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.file_cache import FileCache
from storage.manifest import FileDigest
from storage.objects import ObjectStore
from training.data.holdout import HoldoutDocument
from training.data.shards import MdsReader, read_holdout


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutFolder:
    """A folder of holdout shards, with all that is needed to read and to score it anywhere."""

    prefix: str
    """Of the snapshot."""
    folder: str
    """Below ``prefix``: ``<domain>/holdout``."""
    files: tuple[FileDigest, ...]
    """Relative to ``prefix``."""
    token_dtype: str
    start_id: int
    end_id: int
    seq_len: int
    """Inputs a row, as in training."""

    def read(self, store: ObjectStore, cache_dir: Path) -> list[HoldoutDocument]:
        """All documents, every byte checked, in the order of the shards.

        Raises:
            CorruptError: A shard is missing, short or altered.
        """
        reader = MdsReader(store, self.prefix, self.folder, self.files, FileCache(cache_dir))
        return read_holdout(reader, token_dtype=self.token_dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringUnit:
    """Documents of one folder that are scored in one go, always the same ones together.

    What a model makes of them is a function of the model and of them alone, so that neither the
    number of workers nor what else is scored changes a bit of it.
    """

    rows: tuple[int, ...]
    """Which documents of the folder, by their place in it, in the order of scoring."""
    documents: tuple[str, ...]
    clusters: tuple[str, ...]
    targets: tuple[int, ...]
    """Of each document: every token but its first."""
    text_bytes: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Targets of all documents."""
        return sum(self.targets)

    def pick(self, documents: Sequence[HoldoutDocument]) -> list[HoldoutDocument]:
        """The unit's documents out of all of the folder."""
        return [documents[row] for row in self.rows]
