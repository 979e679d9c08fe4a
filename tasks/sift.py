"""What depends on earlier documents: which one of several alike is kept, in canonical order.

One process does it, batch after batch, so what is kept does not depend on who prepared it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.known_documents import KnownDocuments
from storage.near_duplicate_index import SEGMENT, NearDuplicateIndex
from storage.snapshots import PARAGRAPHS, CheckedTask
from storage.takedowns import FORGOTTEN, NOTHING_KEPT_OUT, KeptOut
from tasks.curate import ExactDuplicates
from tasks.decontamination.screen import CONTAMINATED, LeakRecord, Sought
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.screen import NearDuplicateScreen
from tasks.paragraphs import PARAGRAPH_DUPLICATES, ParagraphScreen
from tasks.prepare import Prepared
from tasks.unshown import Unshown

LEAKS = "leaks.jsonl"
"""The task items that documents gave away which were dropped for it, a line each."""
EXAMPLES = "examples.jsonl"
"""Of what was dropped for each reason, a line each."""

_EXAMPLES_A_REASON = 5


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is left to tell once everything was sifted."""

    dropped: Counter[tuple[str, str]]
    """Documents by domain and reason."""
    checked: tuple[CheckedTask, ...]
    """The task items that were looked for."""

    @property
    def dropped_by_reason(self) -> Counter[str]:
        """Documents of all domains."""
        counts: Counter[str] = Counter()
        for (_, reason), count in self.dropped.items():
            counts[reason] += count
        return counts


class Sifter:
    """Says of each document whether it is kept.

    Args:
        known: What the lineage has.
        sought: Task items that are looked for; None: there are none.
        near_duplicates: None: they are not looked for.
        index: Of the near-duplicates that the lineage has.
        directory: Existing local directory for temporary files.
        kept_out: What was taken down: nothing of it is shown as an example, nor of what is alike.
    """

    def __init__(
        self,
        known: KnownDocuments,
        sought: Sought | None,
        near_duplicates: NearDuplicateConfig | None,
        index: NearDuplicateIndex,
        directory: Path,
        kept_out: KeptOut = NOTHING_KEPT_OUT,
    ) -> None:
        self._unshown = Unshown(kept_out, near_duplicates, index)
        self._duplicates = ExactDuplicates(known.has_all)
        self._leaks = LeakRecord(sought) if sought is not None else None
        self._screen = (
            NearDuplicateScreen(near_duplicates, index, directory)
            if near_duplicates is not None
            else None
        )
        self._paragraphs: ParagraphScreen | None = None
        self._known = known
        self._num_documents = 0
        self._examples: Counter[str] = Counter()
        self._lines: list[str] = []
        self._dropped: Counter[tuple[str, str]] = Counter()

    def reasons(self, prepared: Prepared) -> list[str]:
        """Why each document of the next batch is dropped, "" for what is kept."""
        reasons = self._duplicates.reasons(prepared.digests, prepared.reasons)
        if self._leaks is not None:
            for place, leaks in prepared.leaks.items():
                if not reasons[place]:
                    self._leaks.add(leaks)
                    reasons[place] = CONTAMINATED
        if self._screen is not None and prepared.signatures is not None:
            is_left = _is_left(prepared, reasons)
            places = prepared.looked_at[is_left]
            rows = places + self._num_documents
            found = self._screen.reasons(prepared.signatures.of(is_left), rows)
            for place, reason in zip(places.tolist(), found, strict=True):
                reasons[place] = reason
        if prepared.paragraphs is not None:
            self._screen_paragraphs(prepared, reasons)
        self._num_documents += len(reasons)
        self._note(prepared, reasons)
        return reasons

    def _screen_paragraphs(self, prepared: Prepared, reasons: list[str]) -> None:
        assert prepared.paragraphs is not None
        self._paragraphs = self._paragraphs or ParagraphScreen(self._known)
        repeats = self._paragraphs.repeats(prepared.paragraphs, _is_left(prepared, reasons))
        for place in prepared.looked_at[repeats].tolist():
            reasons[place] = PARAGRAPH_DUPLICATES

    def finish(self, directory: Path, snapshot: str) -> Sifted:
        """Write what was found, so far as it was looked for, once everything was sifted.

        Args:
            directory: Where the files of ``snapshot`` are gathered.
            snapshot: Its id.
        """
        if self._leaks is not None:
            self._leaks.write(directory / LEAKS)
        if self._screen is not None:
            self._screen.write(directory / SEGMENT, snapshot)
        if self._paragraphs is not None:
            self._paragraphs.write(directory / PARAGRAPHS)
        (directory / EXAMPLES).write_text("".join(self._lines), encoding="utf-8")
        checked = self._leaks.checked() if self._leaks is not None else ()
        return Sifted(self._dropped, checked)

    def _note(self, prepared: Prepared, reasons: Sequence[str]) -> None:
        for place, reason in enumerate(reasons):
            if not reason:
                continue
            document = prepared.documents[place]
            self._dropped[document.domain, reason] += 1
            if self._examples[reason] < _EXAMPLES_A_REASON:
                self._examples[reason] += 1
                shown = {
                    "reason": reason,
                    "document": document.id,
                    "uri": document.uri,
                    "position": document.position,
                    "domain": document.domain,
                    "excerpt": (
                        FORGOTTEN
                        if self._unshown.has(prepared, place)
                        else _without_personal_data(prepared.excerpts[place])
                    ),
                }
                self._lines.append(json.dumps(shown, sort_keys=True) + "\n")


def _is_left(prepared: Prepared, reasons: Sequence[str]) -> NDArray[np.bool_]:
    """Of what was looked at, which is kept so far."""
    return np.array([not reasons[place] for place in prepared.looked_at], bool)


def _without_personal_data(excerpt: str) -> str:
    """What a page may show to anybody, whatever the rules of the document's domain."""
    from tasks.curation.pii import KINDS, count_and_mask  # noqa: PLC0415  only where there is any

    (masked,), _ = count_and_mask([excerpt], KINDS)
    return masked
