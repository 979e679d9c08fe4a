"""Takedowns: which documents were forgotten. Their records hold digests and ids, never a text.

The record of one that was begun names everything that is to be done, so that whoever finds it can
finish the work. Of one that is done the ids are gone as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from storage.errors import NotFoundError
from storage.layout import Layout
from storage.manifest import FileDigest, load, readable_json
from storage.objects import ObjectStore

FORGOTTEN = "forgotten"
"""Reason of a document that was taken down, in a snapshot's table of documents."""
SEGMENT_OWNER = "takedown "
"""Begins what the signatures of a takedown are called where a snapshot's have its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenDocument:
    """One row of a snapshot's table of documents that is taken down."""

    snapshot: str
    row: int
    """In the table of documents, from 0."""
    document: str
    """Its id; once the takedown is done, what stands for it: see ``stand_in``."""
    content: str
    """Digest of its text, 32 hex digits, by which an exact copy is known."""
    domain: str
    split: str
    """train, holdout, or dropped: then it left no text."""
    first_token: int
    """Where it lay in the training stream of its domain, -1 when it was not in it."""
    tokens: int
    """With its framing."""
    why: Literal["asked", "alike", "derived"]

    @property
    def stand_in(self) -> str:
        """What stands in the place of its id from then on."""
        return f"{FORGOTTEN}/{self.content[:12]}-{self.row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnkeptText:
    """The text of a document that is taken down, where no snapshot kept it."""

    reason: str
    """Why the document was dropped; ``FORGOTTEN`` where an equal text was taken down before."""
    is_repeated: bool
    """Whether what it nearly repeats was found in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takedown:
    """Documents that are taken down together."""

    id: str
    """12 hex digits, of what is taken down."""
    lineage: str
    by: str
    begun_at: str
    """UTC, ISO 8601; for people."""
    documents: tuple[ForgottenDocument, ...]
    contents: tuple[str, ...]
    """Digests of all texts that are kept out, also of those that no snapshot has."""
    windows: tuple[str, ...]
    """Digests of passages, by which texts are searched for: ``tasks.forget.passages``."""
    versions: tuple[str, ...]
    """Judged versions of the model that saw any of it, when it was begun."""
    tasks: tuple[str, ...] = ()
    """Tasks of the YAML that had items about it: their files have them still."""
    signatures: FileDigest | None = None
    """A segment of the index of near-duplicates with the texts, relative to ``Layout.takedowns``;
    None where near-duplicates are not looked for."""

    quoting: tuple[str, ...] = ()
    """Snapshots whose lists of rejects, leaks or examples quote any of it."""
    too_short: int = 0
    """Texts that are too short to be searched for."""
    unkept: tuple[UnkeptText, ...] = ()
    """Texts that are not searched for, because there is none, a document each."""

    @property
    def snapshots(self) -> tuple[str, ...]:
        """Those that have any of it, or quote it, in order."""
        return tuple(sorted({*(document.snapshot for document in self.documents), *self.quoting}))

    def of_snapshot(self, snapshot: str) -> tuple[ForgottenDocument, ...]:
        """What is taken out of one snapshot."""
        return tuple(one for one in self.documents if one.snapshot == snapshot)


def begin_takedown(store: ObjectStore, layout: Layout, takedown: Takedown) -> None:
    """Put on record what is to be forgotten; from then on it can be finished. Safe to retry."""
    store.put_if_absent(layout.begun_takedown(takedown.id), readable_json(takedown))


def end_takedown(store: ObjectStore, layout: Layout, takedown: Takedown) -> None:
    """Put on record that all of it is done, without the ids. Safe to retry."""
    named = tuple(replace(one, document=one.stand_in) for one in takedown.documents)
    done = replace(takedown, documents=named)
    store.put_if_absent(layout.takedown(takedown.id), readable_json(done))
    store.purge(layout.begun_takedown(takedown.id))


def begun_takedowns(store: ObjectStore, layout: Layout) -> list[Takedown]:
    """Those that were begun and are not done.

    Raises:
        CorruptError: A record was altered.
    """
    return [load(store, info.key, Takedown) for info in store.list(layout.begun_takedowns)]


def check_no_takedown(store: ObjectStore, layout: Layout) -> None:
    """Refuse to read on or to train while documents are half taken down. One listing.

    Raises:
        ValueError: A takedown was begun and is not done.
    """
    for info in store.list(layout.begun_takedowns):
        name = PurePosixPath(info.key).stem
        raise ValueError(
            f"takedown {name} of {layout.lineage} was begun and is not done, so documents that "
            "must go may still lie there: run 'perennial forget' with the lineage's YAML alone, "
            "which finishes it, then run the same command again"
        )


def signatures_kept_out(store: ObjectStore, layout: Layout) -> list[FileDigest]:
    """Segments of the texts that are kept out, relative to ``Layout.takedowns``.

    Raises:
        CorruptError: A record was altered.
    """
    prefixes = (layout.done_takedowns, layout.begun_takedowns)
    found = {
        takedown.id: takedown.signatures
        for prefix in prefixes
        for takedown in (load(store, info.key, Takedown) for info in store.list(prefix))
        if takedown.signatures is not None
    }
    return list(found.values())


@dataclass(frozen=True, slots=True)
class KeptOut:
    """What was taken down, as a refresh has to know it."""

    contents: frozenset[bytes] = frozenset()
    """Digests of texts, 16 bytes each."""
    windows: frozenset[str] = frozenset()
    """Digests of their passages: none of them may be shown again."""


NOTHING_KEPT_OUT = KeptOut()


def kept_out(store: ObjectStore, layout: Layout, takedowns: Iterable[str]) -> KeptOut:
    """What these takedowns keep out.

    Raises:
        CorruptError: A record was altered.
    """
    contents: set[bytes] = set()
    windows: set[str] = set()
    for takedown in takedowns:
        try:
            found = load(store, layout.takedown(takedown), Takedown)
        except NotFoundError:
            found = load(store, layout.begun_takedown(takedown), Takedown)
        contents.update(map(bytes.fromhex, found.contents))
        windows.update(found.windows)
    return KeptOut(frozenset(contents), frozenset(windows))
