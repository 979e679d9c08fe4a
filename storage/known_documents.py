"""What the snapshots of a lineage hold, so that nothing is read twice and no cluster changes sides.

It stands in the snapshots' tables of documents. A machine keeps it sorted besides
(``storage.known_piece``): of eight snapshots in a row one piece, of eight such pieces one, so that
a refresh reads the tables of what came since its last one, and maps some seven pieces for each
power of eight. A piece is found by the hash of the manifests that it was made of: a snapshot whose
documents were changed has another manifest, and the piece is made again.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.errors import CorruptError
from storage.known_piece import (
    Keys,
    KnownPiece,
    merged,
    numbers_of,
    open_piece,
    sorted_keys,
    write_piece,
)
from storage.layout import Layout
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, SnapshotManifest, parse_snapshot_manifest

_GROUP_SIZES = (512, 64, 8, 1)
"""Snapshots a piece; one of so many begins at a multiple of its size."""
_ENDING = ".known"


class KnownDocuments:
    """What earlier snapshots hold: contents, and the side on which each cluster fell.

    16 bytes a document and 16 a cluster, in memory or mapped.
    """

    def __init__(self, pieces: Sequence[KnownPiece]) -> None:
        self._pieces = tuple(pieces)

    def has(self, digest: bytes) -> bool:
        """Whether a document of this content (16 bytes) was read before, kept or dropped."""
        return any(piece.contents.has(digest) for piece in self._pieces)

    def has_all(self, digests: Keys) -> NDArray[np.bool_]:
        """``has`` of each of many: ``S16[n]`` to ``bool[n]``."""
        wanted = numbers_of(digests)
        found = np.zeros(len(digests), np.bool_)
        for piece in self._pieces:
            found |= piece.contents.has_all(wanted)
        return found

    def split_of(self, cluster_key: bytes) -> Literal["train", "holdout"] | None:
        """The side of a cluster (16 bytes), None for one that is new.

        Holdout wins should a cluster be found on both sides: it must never be trained on again.
        """
        if any(piece.held_out.has(cluster_key) for piece in self._pieces):
            return "holdout"
        return "train" if any(p.trained_on.has(cluster_key) for p in self._pieces) else None

    def splits_of(self, cluster_keys: Keys) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """``split_of`` each of many, ``S16[n]``: which are held out, and which are trained on."""
        wanted = numbers_of(cluster_keys)
        held_out = np.zeros(len(cluster_keys), np.bool_)
        trained_on = np.zeros(len(cluster_keys), np.bool_)
        for piece in self._pieces:
            held_out |= piece.held_out.has_all(wanted)
            trained_on |= piece.trained_on.has_all(wanted)
        return held_out, trained_on & ~held_out


def known_documents(
    store: ObjectStore,
    layout: Layout,
    ids: Iterable[str],
    kept_out: Iterable[bytes] = (),
    *,
    cache: Path | None = None,
) -> KnownDocuments:
    """The documents and clusters of the given snapshots, and contents that must not come in.

    Args:
        store: Where the lineage lies.
        layout: Of the lineage.
        ids: Of the snapshots, in the order in which the lineage came to know them.
        kept_out: Contents (16 bytes each) that count as known besides.
        cache: Folder of this machine, of this lineage alone, that need not exist. Pieces that lie
            there and are what they should be are used, all others are made and left there, and
            what is not needed any more is removed. None: nothing is kept.

    Raises:
        NotFoundError: One of the snapshots does not exist.
        CorruptError: A manifest or a table of documents is missing, altered or of another form.
    """
    snapshots = [_Snapshot(one, store.get(layout.snapshot_manifest(one))) for one in ids]
    with TemporaryDirectory() as scratch:
        reader = _Reader(store, layout, Path(scratch), cache)
        piece_of = reader.made if cache is None else reader.kept
        found = [piece_of(group) for group in _groups(snapshots)]
    if cache is None:
        found = [merged(found)] if found else []
    else:
        _remove_others(cache, [_path(cache, group) for group in _groups(snapshots)])
    if contents := list(kept_out):
        nothing = sorted_keys(np.empty(0, "S16"))
        found.append(KnownPiece(sorted_keys(np.array(contents, "S16")), nothing, nothing))
    return KnownDocuments(found)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    id: str
    body: bytes
    """Of its manifest."""


_Group = Sequence[_Snapshot]


def _groups(snapshots: _Group) -> Iterator[_Group]:
    """The fewest groups that have all, in order."""
    start = 0
    while start < len(snapshots):
        left = len(snapshots) - start
        size = next(size for size in _GROUP_SIZES if start % size == 0 and size <= left)
        yield snapshots[start : start + size]
        start += size


def _made_of(group: _Group) -> bytes:
    """Stands for the manifests of a group, and so for the bytes of their tables."""
    return hashlib.sha256(b"".join(hashlib.sha256(one.body).digest() for one in group)).digest()


def _path(cache: Path, group: _Group) -> Path:
    return cache / f"{_made_of(group).hex()[:32]}{_ENDING}"


def _remove_others(cache: Path, wanted: Sequence[Path]) -> None:
    """Who has one open keeps it: a removed file stays mapped."""
    if cache.is_dir():
        for path in set(cache.glob(f"*{_ENDING}")) - set(wanted):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens pieces, or makes them of what there is."""

    store: ObjectStore
    layout: Layout
    scratch: Path
    cache: Path | None

    def kept(self, group: _Group) -> KnownPiece:
        """The piece of a group from the cache, where it is afterwards."""
        assert self.cache is not None
        piece = self._opened(group)
        if piece is None:
            piece = self.made(group)
            write_piece(_path(self.cache, group), piece, _made_of(group))
            # From now on mapped, so that a long history takes no memory.
            piece = self._opened(group) or piece
        return piece

    def made(self, group: _Group) -> KnownPiece:
        """The piece of a group, of smaller pieces where the cache has them."""
        if len(group) == 1:
            return self._of_table(group[0])
        size = _GROUP_SIZES[_GROUP_SIZES.index(len(group)) + 1]
        parts = [group[start : start + size] for start in range(0, len(group), size)]
        return merged([self._opened(part) or self.made(part) for part in parts])

    def _opened(self, group: _Group) -> KnownPiece | None:
        if self.cache is None:
            return None
        return open_piece(_path(self.cache, group), _made_of(group))

    def _of_table(self, snapshot: _Snapshot) -> KnownPiece:
        manifest = parse_snapshot_manifest(snapshot.body, self.layout, snapshot.id)
        path = _documents_file(self.store, self.layout, manifest, self.scratch)
        key = f"{self.layout.snapshot(manifest.id)}/{DOCUMENTS}"
        contents, clusters, splits = _read_columns(path, key)
        return KnownPiece(
            sorted_keys(contents),
            sorted_keys(clusters[splits == "holdout"]),
            sorted_keys(clusters[splits == "train"]),
        )


def _documents_file(
    store: ObjectStore, layout: Layout, manifest: SnapshotManifest, scratch: Path
) -> Path:
    file = file_named(manifest.files, DOCUMENTS, layout.snapshot_manifest(manifest.id))
    return fetch_verified(
        store, layout.snapshot(manifest.id), file, scratch / f"{manifest.id}.parquet"
    )


def _read_columns(path: Path, key: str) -> tuple[Keys, Keys, NDArray[np.str_]]:
    import pyarrow as pa  # noqa: PLC0415  slow to import, and a scheduler never reads documents
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path, columns=["content", "cluster_key", "split"])
    except pa.ArrowException as error:
        raise CorruptError(
            f"{key} cannot be read as Parquet ({error}); restore it from a copy"
        ) from error
    wanted = pa.schema([("content", pa.binary(16)), ("cluster_key", pa.binary(16))])
    found = table.schema
    if [f.type for f in found][:2] != [f.type for f in wanted] or found.names[-1] != "split":
        raise CorruptError(
            f"{key} should have the columns content and cluster_key of 16 bytes and split, found "
            f"{dict(zip(found.names, map(str, found.types), strict=True))}; refresh again"
        )
    splits = table.column("split").to_numpy().astype(np.str_)
    return _keys_of(table.column("content")), _keys_of(table.column("cluster_key")), splits


def _keys_of(column: Any) -> Keys:
    """A chunked column of 16 bytes a row as ``S16[n]``."""
    parts = [np.empty(0, dtype="S16")]
    for chunk in column.chunks:
        rows = np.frombuffer(chunk.buffers()[1] or b"", dtype="S16")
        parts.append(rows[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)
