"""Rows of the tables of documents that have to go, found one after the other."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest, read_snapshot_manifest
from storage.takedowns import FORGOTTEN, ForgottenDocument, UnkeptText, kept_out
from tasks.document_rows import DocumentTables
from tasks.drop_reasons import EXACT, stage_of
from tasks.forget.passages import Passages
from tasks.forget.snapshot import quotes
from tasks.forget.texts import tokens_of
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.find import find_near
from tasks.near_duplicates.signatures import Signatures
from tasks.twins import NearTwins, Place, near_twins

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

Why = Literal["asked", "alike", "derived"]

_COLUMNS = (
    "document", "content", "domain", "split", "first_token", "tokens", "reason",
)  # fmt: skip


class Hunt:
    """What was found so far.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        near: What counts as alike; None: only equal texts do.
        work_dir: For local copies of tables and shards.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        head: Head,
        near: NearDuplicateConfig | None,
        work_dir: Path,
    ) -> None:
        self._store, self._layout, self._head = store, layout, head
        self._near, self._work_dir = near, work_dir
        self._manifests = {
            record.id: read_snapshot_manifest(store, layout, record.id) for record in head.snapshots
        }
        self._tables = DocumentTables(store, layout, work_dir / "documents")
        self._cache = FileCache(work_dir / "snapshots")
        self.found: dict[Place, ForgottenDocument] = {}
        self._reasons: dict[Place, str] = {}
        self._digests: dict[Place, frozenset[bytes]] = {}
        self._searched: set[bytes] = set()
        """Digests of texts whose every place was found."""
        self._twins: dict[Place, NearTwins] = {}
        self._texts: dict[Place, tuple[str, Any]] = {}

    def add_asked(self, ids: Sequence[str], contents: Sequence[bytes]) -> None:
        """Add what was asked for by id, or has one of these texts, and what equals it."""
        for manifest in self._manifests.values():
            self._add(manifest, "asked", names=ids, contents=contents)
        self._add_equal()

    def add_alike(self, why: Why, texts: Sequence[str] = ()) -> None:
        """Add what nearly repeats given texts, or what was found for one reason.

        What a document repeats that left no text, its signature tells.
        """
        if self._near is None:
            return
        places = self._with_text_of(why)
        spelled = self.texts()
        wanted = [*texts, *(spelled[place][0] for place in sorted(places & spelled.keys()))]
        alike: set[Place] = set()
        if wanted:
            near = find_near(
                self._store, self._layout, self._head, wanted, self._near, cache=self._cache
            )
            alike = {(snapshot, row) for snapshot, rows in near.items() for row in rows}
        dropped = {place for place in places if self.found[place].split == "dropped"}
        twins = near_twins(
            self._store,
            self._layout,
            self._head,
            self._manifests,
            dropped - self._twins.keys(),
            self._near,
            cache=self._cache,
        )
        self._twins |= twins
        alike.update(place for twin in twins.values() for place in twin.likeness)
        for snapshot, manifest in self._manifests.items():
            # What was taken down before is in the index as well, and in no snapshot.
            rows = sorted(row for other, row in alike if other == snapshot)
            self._add(manifest, "alike", places=rows)
        self._add_equal()

    def add_derived(self) -> None:
        """Add what names one that was found as what it was made of, and what names that."""
        before = -1
        while len(self.found) > before:
            before = len(self.found)
            names = {name for one in self.found.values() for name in _names_of(one.document)}
            for manifest in self._manifests.values():
                self._add(manifest, "derived", made_of=names)
            self._add_equal()

    def texts(self) -> dict[Place, tuple[str, Any]]:
        """Text and tokens of every found document that has any."""
        for snapshot, manifest in self._manifests.items():
            wanted = [
                one
                for place, one in self.found.items()
                if one.snapshot == snapshot and one.split != "dropped" and place not in self._texts
            ]
            if not wanted:
                continue
            tokenizer = tokenizer_of(self._store, manifest.tokenizer, self._work_dir)
            prefix = self._layout.snapshot(snapshot)
            for one, tokens in tokens_of(self._store, prefix, manifest, wanted, self._cache):
                text = tokenizer.decode(tokens)
                self._texts[snapshot, one.row] = text, tokens
        return self._texts

    @property
    def contents(self) -> set[str]:
        """Digests of all texts that were found, also as they were delivered."""
        return {digest.hex() for digests in self._digests.values() for digest in digests}

    def signatures(self) -> list[Signatures]:
        """Of documents that left no text."""
        return [twin.signature for _, twin in sorted(self._twins.items())]

    def unkept(self, given: Iterable[bytes]) -> dict[str, UnkeptText]:
        """The documents that left no text, of what was asked for or derived, by id.

        Args:
            given: Digests of texts that are there because somebody gave them.
        """
        spelled = self.texts()
        known = set(given).union(*(self._digests[place] for place in spelled))
        forgotten = kept_out(self._store, self._layout, self._head.takedowns).contents
        unkept: dict[str, UnkeptText] = {}
        for place, one in sorted(self.found.items()):
            if one.why == "alike" or self._digests[place] & known:
                continue
            repeated = self._twins[place].likeness.keys() if place in self._twins else set[Place]()
            is_gone = self._digests[place] & forgotten or (
                repeated and not repeated & self.found.keys()
            )
            unkept[one.document] = UnkeptText(
                reason=FORGOTTEN if is_gone else self._reason(place),
                is_repeated=bool(repeated & spelled.keys()),
            )
        return unkept

    def quoting(self, windows: Iterable[str]) -> tuple[str, ...]:
        """Snapshots whose lists quote what the windows are of."""
        passages = Passages(windows)
        return tuple(
            snapshot
            for snapshot, manifest in sorted(self._manifests.items())
            if quotes(self._store, self._layout, manifest, passages)
        )

    def _add_equal(self) -> None:
        """Add whatever has a text that was found, as it was delivered or as the rules left it."""
        while new := set[bytes]().union(*self._digests.values()) - self._searched:
            self._searched |= new
            for manifest in self._manifests.values():
                self._add(manifest, "alike", contents=new)

    def _with_text_of(self, why: Why) -> set[Place]:
        """What was found for one reason, and what equals that."""
        digests = set[bytes]().union(
            *(self._digests[place] for place, one in self.found.items() if one.why == why)
        )
        return {place for place, own in self._digests.items() if own & digests}

    def _reason(self, place: Place) -> str:
        """Why a text was dropped: what the first of several equal documents was dropped for."""
        equal = [other for other, own in self._digests.items() if own & self._digests[place]]
        reasons = [self._reasons[other] for other in sorted(equal)]
        return next((why for why in reasons if stage_of(why) != EXACT), self._reasons[place])

    def _add(
        self,
        manifest: SnapshotManifest,
        why: Why,
        *,
        names: Iterable[str] = (),
        contents: Collection[bytes] = (),
        places: Iterable[int] = (),
        made_of: Iterable[str] = (),
    ) -> None:
        rows = self._tables.rows(
            manifest, _COLUMNS, names=names, contents=contents, places=places, made_of=made_of
        )
        new = {
            row: values
            for row, values in rows.items()
            # Documents that were forgotten before are not found again.
            if values["reason"] != FORGOTTEN and (manifest.id, row) not in self.found
        }
        by_name = {values["document"]: values["content"] for values in new.values()}
        digests = self._tables.digests(manifest, by_name)
        for row, values in new.items():
            place = manifest.id, row
            self._reasons[place] = values["reason"]
            self._digests[place] = digests[values["document"]]
            self.found[place] = _document(manifest.id, row, values, why)


def tokenizer_of(store: ObjectStore, prefix: str, work_dir: Path) -> "Tokenizer":
    """The tokenizer that lies under ``prefix``."""
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    return fetch_tokenizer(store, prefix, work_dir / "tokenizer")


def _document(snapshot: str, row: int, values: Mapping[str, Any], why: Why) -> ForgottenDocument:
    return ForgottenDocument(
        snapshot=snapshot,
        row=row,
        document=values["document"],
        content=values["content"].hex(),
        domain=values["domain"],
        split=values["split"],
        first_token=values["first_token"],
        tokens=values["tokens"],
        why=why,
    )


def _names_of(document: str) -> tuple[str, str]:
    """How other documents may name one that they were made of."""
    return document, document.partition("/")[2]
