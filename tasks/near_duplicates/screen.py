"""The rule: a document goes when it nearly repeats an earlier kept one of lineage or batch.

The order is the canonical one, so what is kept of three refreshes is what one over the same
documents in the same order keeps. Everything that passes goes into the index, also what is held out
and what a later stage drops: a near copy of it does not come in either.
"""

from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.near_duplicate_index import NearDuplicateIndex
from storage.near_duplicate_segment import write_segment
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.dropped import DROPPED_SEGMENT, DroppedSignatures
from tasks.near_duplicates.signatures import Signatures


class NearDuplicateScreen:
    """Screens the documents of one refresh, each seen once.

    What is kept lies in files of ``directory``, all but the newest (``KeptOnDisk``); memory grows
    by 4 bytes a document.

    Args:
        config: What counts as near.
        index: What the lineage has, of the same scheme.
        directory: Existing local directory for temporary files.
    """

    def __init__(
        self, config: NearDuplicateConfig, index: NearDuplicateIndex, directory: Path
    ) -> None:
        from tasks.near_duplicates.kept_on_disk import KeptOnDisk  # noqa: PLC0415  imports numba

        self._config, self._index = config, index
        self._kept = KeptOnDisk(config.scheme, directory)
        self._dropped = DroppedSignatures(config.scheme, directory)
        self._rows = array("I")

    def reasons(self, signatures: Signatures, rows: NDArray[np.int64]) -> list[str]:
        """Why each of the documents that come next is dropped, "" for what is kept.

        Args:
            signatures: Of the documents.
            rows: Of the documents in the table of all, ascending.
        """
        keys, prints, minimum = signatures.keys, signatures.prints, self._config.min_equal
        # A document without a word has no minima, and so the same ones as any other such.
        in_lineage = self._index.has(keys, prints, minimum) & ~signatures.is_empty
        left_out = in_lineage | signatures.is_empty
        in_batch = self._kept.keep_new(keys, prints, left_out, minimum)
        self._rows.extend(rows[~left_out & ~in_batch].tolist())
        is_near = in_lineage | in_batch
        self._dropped.add(signatures.of(is_near), rows[is_near])
        reasons = np.full(len(rows), "", object)
        reasons[in_batch] = "near_duplicate_in_batch"
        reasons[in_lineage] = "near_duplicate"
        return reasons.tolist()

    def write(self, path: Path, snapshot: str) -> None:
        """Write what passed as the segment of ``snapshot``, once everything was screened.

        Of what was dropped the signatures lie beside it, in a file of their own.
        """
        keys, prints = self._kept.signatures()
        write_segment(
            path,
            self._config.scheme,
            snapshot,
            rows=np.array(self._rows, np.uint32),
            keys=keys,
            prints=prints,
        )
        self._dropped.write(path.with_name(DROPPED_SEGMENT), snapshot)
