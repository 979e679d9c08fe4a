"""The rule: a document goes when it nearly repeats an earlier kept one of lineage or batch.

The order is the canonical one, so what is kept of three refreshes is what one over the same
documents in the same order keeps. Everything that passes goes into the index, also what is held out
and what a later stage drops: a near copy of it does not come in either.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from storage.near_duplicate_index import NearDuplicateIndex
from storage.near_duplicate_segment import write_segment
from tasks.curate import Curated
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.signatures import signatures_of

_BATCH_DOCUMENTS = 4096
_BATCH_CHARS = 4_000_000


class NearDuplicateScreen:
    """Screens the documents of one refresh, each seen once.

    Memory grows with the documents that are kept (``KeptDocuments``); of texts it holds some four
    million characters and one document.

    Args:
        config: What counts as near.
        index: What the lineage has, of the same scheme.
    """

    def __init__(self, config: NearDuplicateConfig, index: NearDuplicateIndex) -> None:
        from tasks.near_duplicates.kept import KeptDocuments  # noqa: PLC0415  imports numba

        self._config, self._index = config, index
        self._kept = KeptDocuments(config.scheme)
        self._rows = array("I")
        self._num_seen = 0

    def screen(self, curated: Iterable[Curated]) -> Iterator[Curated]:
        """All of ``curated`` in order; what repeats an earlier document gets that as its reason."""
        batch: list[Curated] = []
        num_chars = 0
        for item in curated:
            batch.append(item)
            num_chars += 0 if item.reason else len(item.document.text)
            if len(batch) == _BATCH_DOCUMENTS or num_chars >= _BATCH_CHARS:
                yield from self._screened(batch)
                batch, num_chars = [], 0
        yield from self._screened(batch)

    def write(self, path: Path, snapshot: str) -> None:
        """Write what passed as the segment of ``snapshot``, once everything was screened."""
        write_segment(
            path,
            self._config.scheme,
            snapshot,
            rows=np.array(self._rows, np.uint32),
            keys=self._kept.keys,
            prints=self._kept.prints,
        )

    def _screened(self, batch: list[Curated]) -> Iterator[Curated]:
        places = [place for place, item in enumerate(batch) if not item.reason]
        texts = [batch[place].document.text for place in places]
        signatures = signatures_of(texts, self._config.scheme)
        keys, prints, minimum = signatures.keys, signatures.prints, self._config.min_equal
        # A document without a word has no minima, and so the same ones as any other such.
        in_lineage = self._index.has(keys, prints, minimum) & ~signatures.is_empty
        left_out = in_lineage | signatures.is_empty
        in_batch = self._kept.keep_new(keys, prints, left_out, minimum)
        reasons: dict[int, str] = {}
        for index, place in enumerate(places):
            if in_lineage[index]:
                reasons[place] = "near_duplicate"
            elif in_batch[index]:
                reasons[place] = "near_duplicate_in_batch"
            elif not left_out[index]:
                self._rows.append(self._num_seen + place)
        self._num_seen += len(batch)
        for place, item in enumerate(batch):
            yield replace(item, reason=reasons[place]) if place in reasons else item
