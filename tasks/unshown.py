"""Texts that were taken down, offered again: they are dropped, and nothing of them may be shown."""

import numpy as np

from storage.near_duplicate_index import NearDuplicateIndex
from storage.takedowns import SEGMENT_OWNER, KeptOut
from tasks.forget.passages import Passages
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.prepare import Prepared


class Unshown:
    """Knows what was taken down, and what is alike.

    Args:
        kept_out: What was taken down.
        near_duplicates: None: they are not looked for.
        index: Of the near-duplicates that the lineage has.
    """

    def __init__(
        self,
        kept_out: KeptOut,
        near_duplicates: NearDuplicateConfig | None,
        index: NearDuplicateIndex,
    ) -> None:
        self._contents, self._passages = kept_out.contents, Passages(kept_out.windows)
        self._minimum = near_duplicates.min_equal if near_duplicates is not None else 0
        self._alike = NearDuplicateIndex(
            [
                segment
                for segment in index.segments
                if any(part.snapshot.startswith(SEGMENT_OWNER) for part in segment.parts)
            ]
        )

    def has(self, prepared: Prepared, place: int) -> bool:
        """Whether a document of a batch, or its beginning, is of what was taken down."""
        if not self._contents:
            return False
        if prepared.digests[place] in self._contents:
            return True
        if self._passages.found_in(prepared.excerpts[place].encode()):
            return True
        if prepared.signatures is None:
            return False
        # Of what the rules drop there is no signature.
        found = prepared.signatures.of(prepared.looked_at == place)
        return bool(np.any(self._alike.has(found.keys, found.prints, self._minimum)))
