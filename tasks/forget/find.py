"""What is to be forgotten: the documents asked for, those alike, and what was derived from them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from storage.file_cache import FileCache
from storage.head import Head
from storage.layout import Layout
from storage.manifest import fetch_verified, identity_of
from storage.objects import ObjectStore
from storage.revised import file_named, find_file
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot_manifest
from storage.takedowns import FORGOTTEN, ForgottenDocument
from tasks.curate import content_digest
from tasks.curation.annotation_table import ANNOTATIONS, documents_delivered_as
from tasks.curation.normalise import as_given, normalise
from tasks.forget.passages import Passages, token_windows_of, windows_of
from tasks.forget.snapshot import quotes
from tasks.forget.texts import tokens_of
from tasks.near_duplicates.config import NearDuplicateConfig
from tasks.near_duplicates.find import find_near
from tasks.near_duplicates.signatures import Signatures, signatures_of

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

Why = Literal["asked", "alike", "derived"]

_COLUMNS = (
    "document", "content", "domain", "split", "first_token", "tokens", "synthetic_of", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is to be forgotten."""

    id: str
    """12 hex digits, of all of it."""
    documents: tuple[ForgottenDocument, ...]
    contents: tuple[str, ...]
    """Digests of all texts, also of those that no snapshot has."""
    windows: tuple[str, ...]
    too_short: int
    """Texts that are too short to be searched for."""
    quoting: tuple[str, ...]
    """Snapshots whose lists of rejects, leaks or examples quote any of it."""
    signatures: Signatures | None
    """Of all texts; None where near-duplicates are not looked for."""


def find(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    *,
    ids: Sequence[str],
    texts: Sequence[str],
    near: NearDuplicateConfig | None,
    work_dir: Path,
) -> Found:
    """Find what is to be forgotten. Changes nothing.

    Documents that were forgotten before are not found again.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        head: The newest.
        ids: Ids as the sources give them, or with the source's name before: ``web/17``.
        texts: Texts as they were delivered.
        near: What counts as alike; None: only equal texts do.
        work_dir: For local copies of tables and shards.

    Raises:
        CorruptError: A table, a shard or a manifest is damaged.
        ValueError: The lineage has signatures of another kind than ``near``.
    """
    normal = [normalise(text) for text in texts]
    hunt = _Hunt(store, layout, head, near, work_dir)
    given_contents = [content_digest(text) for text in sorted(set().union(*map(as_given, texts)))]
    hunt.add_asked(ids, given_contents)
    asked = [text for text, _ in hunt.texts().values()]
    if near is not None:
        hunt.add_alike([*normal, *asked])
    while hunt.add_derived():
        pass
    spelled = hunt.texts()
    derived = [spelled[place][0] for place in spelled if hunt.found[place].why == "derived"]
    # Once, and not until there are no more: copies of copies lead further and further away.
    if near is not None and derived:
        hunt.add_alike(derived)
        while hunt.add_derived():
            pass
        spelled = hunt.texts()
    windows: set[str] = set()
    too_short: set[str] = set()
    given = {(text, ()) for text in (*texts, *normal)}
    for text, tokens in (*given, *spelled.values()):
        cut = windows_of(text) | token_windows_of(tokens)
        if not cut:
            too_short.add(normalise(text))
        windows |= cut
    windows |= _tokenised_windows(store, head, normal, work_dir)
    all_texts = [*normal, *(text for text, _ in spelled.values())]
    documents = tuple(hunt.found[place] for place in sorted(hunt.found))
    contents = {document.content for document in documents}
    contents |= {content.hex() for content in given_contents}
    named = [(document.snapshot, document.row) for document in documents]
    return Found(
        id=identity_of({"documents": named, "contents": sorted(contents)})[:12],
        documents=documents,
        contents=tuple(sorted(contents)),
        windows=tuple(sorted(windows)),
        too_short=len(too_short),
        quoting=hunt.quoting(windows),
        signatures=signatures_of(all_texts, near.scheme) if near is not None else None,
    )


def _tokenised_windows(
    store: ObjectStore, head: Head, texts: Sequence[str], work_dir: Path
) -> set[str]:
    """Windows of the tokens of texts that need not lie in any snapshot."""
    if not texts or head.tokenizer is None:
        return set()
    tokenizer = _tokenizer(store, head.tokenizer, work_dir)
    return {
        window
        for tokens in tokenizer.encode_batch(list(texts))
        for window in token_windows_of(tokens)
    }


def _tokenizer(store: ObjectStore, prefix: str, work_dir: Path) -> "Tokenizer":
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415  imports tokenizers

    return fetch_tokenizer(store, prefix, work_dir / "tokenizer")


class _Hunt:
    """Rows of the tables of documents of all snapshots, found one after the other."""

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
        self.found: dict[tuple[str, int], ForgottenDocument] = {}
        self._texts: dict[tuple[str, int], tuple[str, Any]] = {}

    def add_asked(self, ids: Sequence[str], contents: Sequence[bytes]) -> None:
        for manifest in self._manifests.values():
            edited = self._delivered_as(manifest, contents)
            self._add(manifest, "asked", names={*ids, *edited}, contents=contents)

    def add_alike(self, texts: Sequence[str]) -> None:
        assert self._near is not None
        cache = FileCache(self._work_dir / "snapshots")
        alike = find_near(self._store, self._layout, self._head, texts, self._near, cache=cache)
        for snapshot, rows in alike.items():
            # What was taken down before is in the index as well, and in no snapshot.
            if snapshot in self._manifests:
                self._add(self._manifests[snapshot], "alike", rows=sorted(rows))

    def add_derived(self) -> bool:
        """Add what names one that was found as what it was made of; whether there was any."""
        names = {name for one in self.found.values() for name in _names_of(one.document)}
        before = len(self.found)
        for manifest in self._manifests.values():
            self._add(manifest, "derived", made_of=names)
        return len(self.found) > before

    def texts(self) -> dict[tuple[str, int], tuple[str, Any]]:
        """Text and tokens of every found document that has any."""
        for snapshot, manifest in self._manifests.items():
            wanted = [
                one
                for place, one in self.found.items()
                if one.snapshot == snapshot and one.split != "dropped" and place not in self._texts
            ]
            if not wanted:
                continue
            tokenizer = _tokenizer(self._store, manifest.tokenizer, self._work_dir)
            cache = FileCache(self._work_dir / "snapshots")
            prefix = self._layout.snapshot(snapshot)
            for one, tokens in tokens_of(self._store, prefix, manifest, wanted, cache):
                text = tokenizer.decode(tokens)
                self._texts[snapshot, one.row] = text, tokens
        return self._texts

    def quoting(self, windows: Iterable[str]) -> tuple[str, ...]:
        """Snapshots whose lists quote what the windows are of."""
        passages = Passages(windows)
        return tuple(
            snapshot
            for snapshot, manifest in sorted(self._manifests.items())
            if quotes(self._store, self._layout, manifest, passages)
        )

    def _delivered_as(self, manifest: SnapshotManifest, contents: Sequence[bytes]) -> list[str]:
        file = find_file(manifest.files, ANNOTATIONS)
        if file is None or not contents:
            return []
        local = self._work_dir / "documents" / f"{manifest.id}-annotations.parquet"
        path = fetch_verified(self._store, self._layout.snapshot(manifest.id), file, local)
        return documents_delivered_as(path, contents)

    def _add(
        self,
        manifest: SnapshotManifest,
        why: Why,
        *,
        names: Iterable[str] = (),
        contents: Sequence[bytes] = (),
        rows: Sequence[int] = (),
        made_of: Iterable[str] = (),
    ) -> None:
        file = file_named(manifest.files, DOCUMENTS, f"snapshot {manifest.id}")
        local = self._work_dir / "documents" / f"{manifest.id}.parquet"
        path = fetch_verified(self._store, self._layout.snapshot(manifest.id), file, local)
        for row, values in _rows(path, set(names), contents, rows, set(made_of)):
            one = ForgottenDocument(
                snapshot=manifest.id,
                row=row,
                document=values["document"],
                content=values["content"].hex(),
                domain=values["domain"],
                split=values["split"],
                first_token=values["first_token"],
                tokens=values["tokens"],
                why=why,
            )
            if values["reason"] != FORGOTTEN:
                self.found.setdefault((manifest.id, row), one)


def _rows(
    path: Path,
    names: set[str],
    contents: Sequence[bytes],
    rows: Sequence[int],
    made_of: set[str],
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a table of documents, by place, by id with or without the source, and so on."""
    import pyarrow as pa  # noqa: PLC0415  heavy, and the scheduler imports this module
    import pyarrow.compute  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    # Its functions are made when it is imported.
    compute: Any = pyarrow.compute
    table = pq.read_table(path, columns=[*_COLUMNS, "source"])
    sources = table["source"].unique().to_pylist()
    full = [name for given in names for name in (given, *(f"{one}/{given}" for one in sources))]
    chosen = set(rows)
    for column, values, kind in (
        ("document", full, pa.string()),
        ("content", list(contents), pa.binary(16)),
        ("synthetic_of", list(made_of), pa.string()),
    ):
        if values:
            is_in = compute.is_in(table[column], value_set=pa.array(values, kind))
            chosen.update(compute.indices_nonzero(is_in).to_pylist())
    ordered = sorted(chosen)
    for row, values in zip(
        ordered, table.take(pa.array(ordered, pa.int64())).to_pylist(), strict=True
    ):
        yield row, values


def _names_of(document: str) -> tuple[str, str]:
    """How other documents may name one that they were made of."""
    return document, document.partition("/")[2]
