"""How much of what was seen several times a model has by heart.

Repeated text hurts where a model can just memorise it, and copying suffers first (Hernandez et al.
2022, arXiv:2205.10487). Held-out loss does not show that in time, training loss hides it. So: the
beginnings of documents that the update has seen once, twice, ... are continued, and beginnings of
held-out documents of the same domain and snapshot beside them. It is shown and judged by nobody.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import NotFoundError
from storage.file_cache import FileCache
from storage.layout import Layout
from storage.ledger import LedgerRow, read_ledger
from storage.manifest import fetch_verified
from storage.objects import ObjectStore
from storage.revised import file_named
from storage.snapshots import DOCUMENTS, SnapshotManifest, read_snapshot
from storage.suite import SuiteManifest
from tasks.evaluations.copies import CopyProbe, CopyRow
from tasks.scoring.compute import Desk

if TYPE_CHECKING:
    from pathlib import Path

    from training.causal_model import CausalModel

_BOUNDS = (1, 2, 4, 8, 16)
"""A class of documents is those seen so often, up to below the next."""
_DOCUMENTS = 48
"""Of a class, at most."""
_PREFIX_TOKENS = 32
_COPIED_TOKENS = 16
"""After the prefix; all of them must come back."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """The beginnings of a seen document and of a held-out one, each with the start token."""

    seen: tuple[int, ...]
    held_out: tuple[int, ...]


def copy_probe(
    desk: Desk, suite: SuiteManifest, update: str, *, candidate: str, champion: str | None
) -> CopyProbe | None:
    """Continue documents that ``update`` has seen; None when nothing is held out beside them.

    None also when a model's losses are not finite numbers: then there is nothing to compare.

    Safe to retry: the same documents are chosen again, by the hash of their names.

    Args:
        desk: Where models and snapshots are.
        suite: Has the held-out documents.
        update: Of the candidate; its ledger says what was seen how often.
        candidate: Version that the update led to.
        champion: Version that it is compared with.

    Raises:
        CorruptError: A model, a shard or the ledger is damaged.
    """
    try:
        ledger = read_ledger(desk.store, desk.layout, update)
    except NotFoundError:
        return None
    pairs = _pairs(desk, suite, _chosen(ledger))
    if not pairs:
        return None
    ours = {bound: _continued(desk.model(candidate), each) for bound, each in pairs.items()}
    theirs: Mapping[tuple[int, int], _Continued] = {}
    if champion is not None:
        theirs = {bound: _continued(desk.model(champion), each) for bound, each in pairs.items()}
    if not all(part.is_finite for part in (*ours.values(), *theirs.values())):
        return None
    return CopyProbe(
        prefix_tokens=_PREFIX_TOKENS,
        copied_tokens=_COPIED_TOKENS,
        rows=tuple(
            CopyRow(
                seen_from=bound[0],
                seen_to=bound[1],
                documents=len(each),
                nats_per_token=ours[bound].seen,
                held_out_nats_per_token=ours[bound].held_out,
                copied_share=ours[bound].copied,
                held_out_copied_share=ours[bound].held_out_copied,
                champion_gap=(
                    theirs[bound].held_out - theirs[bound].seen if bound in theirs else None
                ),
            )
            for bound, each in sorted(pairs.items())
        ),
    )


def _chosen(ledger: Sequence[LedgerRow]) -> dict[tuple[int, int], list[LedgerRow]]:
    """By how often they were seen, from and to, some of the documents that are long enough."""
    classes: defaultdict[int, list[LedgerRow]] = defaultdict(list)
    for row in ledger:
        if row.tokens // row.exposures > _PREFIX_TOKENS + _COPIED_TOKENS:
            classes[max(bound for bound in _BOUNDS if bound <= row.exposures)].append(row)
    found: dict[tuple[int, int], list[LedgerRow]] = {}
    for rows in classes.values():
        ranked = sorted(rows, key=lambda row: _rank(row.document))[:_DOCUMENTS]
        seen = [row.exposures for row in ranked]
        found[min(seen), max(seen)] = ranked
    return found


def _pairs(
    desk: Desk, suite: SuiteManifest, chosen: Mapping[tuple[int, int], Sequence[LedgerRow]]
) -> dict[tuple[int, int], list[_Pair]]:
    wanted: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for rows in chosen.values():
        for row in rows:
            wanted[row.snapshot, row.domain].add(row.document)
    slices = {(item.snapshot, item.domain): item for item in suite.slices}
    seen: dict[tuple[str, str, str], tuple[int, ...]] = {}
    held: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for (snapshot, domain), names in sorted(wanted.items()):
        if (snapshot, domain) not in slices:
            continue
        manifest = read_snapshot(desk.store, desk.layout, snapshot)
        for name, tokens in _beginnings(desk, manifest, domain, names):
            seen[snapshot, domain, name] = (manifest.start_id, *tokens)
        documents = sorted(
            desk.documents(slices[snapshot, domain]), key=lambda row: _rank(row.document)
        )
        length = 1 + _PREFIX_TOKENS + _COPIED_TOKENS
        held[snapshot, domain] = [
            tuple(row.tokens[:length].tolist()) for row in documents if len(row.tokens) > length
        ]
    found: dict[tuple[int, int], list[_Pair]] = {}
    for bound, rows in chosen.items():
        pairs: list[_Pair] = []
        for number, row in enumerate(rows):
            others = held.get((row.snapshot, row.domain), [])
            tokens = seen.get((row.snapshot, row.domain, row.document))
            if others and tokens:
                pairs.append(_Pair(tokens, others[number % len(others)]))
        if pairs:
            found[bound] = pairs
    return found


def _beginnings(
    desk: Desk, manifest: SnapshotManifest, domain: str, names: set[str]
) -> list[tuple[str, list[int]]]:
    """The first tokens of training documents, without framing."""
    from training.data.shards import MdsReader, TrainShards  # noqa: PLC0415

    starts = _starts(desk.store, desk.layout, manifest, domain, names, desk.work_dir)
    reader = MdsReader(
        desk.store,
        desk.layout.snapshot(manifest.id),
        f"{domain}/train",
        manifest.files,
        FileCache(desk.work_dir / "snapshots"),
    )
    shards = TrainShards(reader, seq_len=manifest.seq_len)
    length = _PREFIX_TOKENS + _COPIED_TOKENS
    return [
        # The start token stands before the text.
        (name, _span(shards, start + 1, length))
        for name, start in sorted(starts.items())
    ]


def _span(shards: Any, start: int, length: int) -> list[int]:
    """Tokens ``start`` to ``start + length`` of the stream that the rows are cut from."""
    first, last = start // shards.seq_len, (start + length - 1) // shards.seq_len
    rows: NDArray[Any] = shards.rows(np.arange(first, last + 1, dtype=np.int64))
    stream = rows[:, :-1].ravel()
    offset = start - first * shards.seq_len
    return stream[offset : offset + length].tolist()


def _starts(
    store: ObjectStore,
    layout: Layout,
    manifest: SnapshotManifest,
    domain: str,
    names: set[str],
    work_dir: "Path",
) -> dict[str, int]:
    """Where documents begin in the training stream of their domain."""
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and the scheduler imports this module

    file = file_named(manifest.files, DOCUMENTS, f"snapshot {manifest.id}")
    path = work_dir / "documents" / f"{manifest.id}.parquet"
    table = pq.read_table(
        fetch_verified(store, layout.snapshot(manifest.id), file, path),
        columns=["document", "first_token"],
        filters=[("domain", "=", domain), ("split", "=", "train"), ("document", "in", names)],
    )
    return dict(zip(table["document"].to_pylist(), table["first_token"].to_pylist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Continued:
    """What a model makes of pairs: nats per token, and shares written on by heart."""

    seen: float
    held_out: float
    copied: float
    held_out_copied: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.seen) and math.isfinite(self.held_out)


def _continued(model: "CausalModel", pairs: Sequence[_Pair]) -> _Continued:
    from training.items.continuations import score_windows  # noqa: PLC0415  torch
    from training.items.windows import Window  # noqa: PLC0415

    texts = [pair.seen for pair in pairs] + [pair.held_out for pair in pairs]
    windows = [Window(number, tokens, _COPIED_TOKENS) for number, tokens in enumerate(texts)]
    # What is greedy at every token, read from the text itself, is what would be written.
    scores = score_windows(model, windows, batch_tokens=4096, precision="fp32")
    seen, held = scores[: len(pairs)], scores[len(pairs) :]
    return _Continued(
        seen=sum(score.nats for score in seen) / (len(pairs) * _COPIED_TOKENS),
        held_out=sum(score.nats for score in held) / (len(pairs) * _COPIED_TOKENS),
        copied=sum(score.is_greedy for score in seen) / len(pairs),
        held_out_copied=sum(score.is_greedy for score in held) / len(pairs),
    )


def _rank(document: str) -> bytes:
    return hashlib.blake2b(document.encode(), digest_size=8).digest()
