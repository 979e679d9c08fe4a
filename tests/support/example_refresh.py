"""A snapshot as a refresh leaves it, made up: tables, rejects, leaks, examples; no shards."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.layout import Layout
from storage.manifest import content_hash, digest_bytes, identity_of
from storage.objects import ObjectStore
from storage.revised import revised_name
from storage.snapshots import CheckedTask, DomainSlice, SnapshotManifest, mint
from tasks.documents import Reject
from tasks.rejects import RejectWriter

_DOCUMENTS = pa.schema(
    [
        *((name, pa.string()) for name in ("document", "source", "uri")),
        ("position", pa.int64()),
        *((name, pa.string()) for name in ("domain", "licence", "date", "language")),
        ("tokens", pa.int64()),
        *((name, pa.string()) for name in ("split", "reason")),
    ]
)
_ANNOTATIONS = pa.schema(
    [
        ("document", pa.string()),
        ("domain", pa.string()),
        ("language", pa.string()),
        *((name, pa.int64()) for name in ("gopher_characters", "pii_email", "pii_phone")),
    ]
)


def row(number: int, reason: str = "", split: str = "train", **changes: Any) -> dict[str, Any]:
    """One document, kept unless it has a reason."""
    found = {
        "document": f"web/d{number}",
        "source": "web",
        "uri": "/data/web/a.jsonl",
        "position": number + 1,
        "domain": "web-en",
        "licence": "CC0-1.0",
        "date": f"2024-{number % 12 + 1:02d}-03",
        "language": "",
        "tokens": 0 if reason else 100 + number,
        "split": "dropped" if reason else split,
        "reason": reason,
    }
    return found | changes


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What ``mint_example`` writes."""

    rows: Sequence[dict[str, Any]]
    """Of the documents, as ``row`` gives them."""
    annotations: Sequence[dict[str, Any]] | None = None
    """A row a document, in the same order; None: no domain has rules."""
    rejects: Sequence[Reject] = ()
    leaks: Sequence[dict[str, Any]] = ()
    examples: Sequence[dict[str, Any]] | None = None
    consumed: dict[str, str] = field(
        default_factory=lambda: {"/data/web/a.jsonl": "5000000-1700000000000000000"}
    )
    tasks: Sequence[CheckedTask] = ()
    revised: Sequence[str] = ()
    """Files that a takedown has rewritten."""


def mint_example(
    store: ObjectStore, layout: Layout, made: Refreshed, folder: Path
) -> SnapshotManifest:
    """Store a snapshot of these files; ``folder`` is an existing one for what is made locally."""
    bodies = {"consumed.json": json.dumps(made.consumed).encode()}
    rows = pa.Table.from_pylist(list(made.rows), _DOCUMENTS)
    pq.write_table(rows, folder / "documents.parquet", row_group_size=7)
    if made.annotations is not None:
        annotations = pa.Table.from_pylist(list(made.annotations), _ANNOTATIONS)
        pq.write_table(annotations, folder / "annotations.parquet", row_group_size=11)
    with RejectWriter(folder / "rejects.jsonl.zst") as rejects:
        for reject in made.rejects:
            rejects.add(reject)
    for path in sorted(folder.iterdir()):
        bodies[path.name] = path.read_bytes()
        path.unlink()
    for name, lines in (("leaks.jsonl", made.leaks), ("examples.jsonl", made.examples)):
        if lines is not None:
            bodies[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    for name in made.revised:
        bodies[revised_name(name, "1a2b3c4d5e6f")] = bodies.pop(name)
    identity = identity_of([made.consumed, len(made.rows)])
    for name, body in bodies.items():
        store.put(f"{layout.snapshot(identity[:12])}/{name}", body)
    files = tuple(digest_bytes(body, name) for name, body in bodies.items())
    manifest = SnapshotManifest(
        id=identity[:12],
        lineage=layout.lineage,
        identity=identity,
        content=content_hash(files),
        role="new",
        minted_at="2026-11-01T03:00:00+00:00",
        tokenizer=layout.tokenizer("t"),
        vocab_size=300,
        start_id=0,
        end_id=0,
        seq_len=32,
        token_dtype="uint16",
        domains=_slices(made.rows),
        documents_read=len(made.rows),
        documents_dropped=_counted([found["reason"] for found in made.rows if found["reason"]]),
        lines_rejected=_counted([reject.reason for reject in made.rejects]),
        files=files,
        checked_tasks=tuple(made.tasks),
    )
    return mint(store, layout, manifest)


def full_example() -> Refreshed:
    """Every part of the page, with text that would do harm if it were taken for more than text."""
    hostile = "</pre><script>alert(1)</script> \u202eevil\u202c \x07bell\x1b[31m\nsecond line"
    reasons = [""] * 40 + ["gopher_quality:stop_words"] * 14 + ["language:not_allowed"] * 7
    reasons += ["duplicate"] * 9 + ["contaminated"] * 4 + ["near_duplicate_in_batch"] * 3
    rows = [row(n, reason) for n, reason in enumerate(reasons)]
    rows[:5] = [row(n, split="holdout") for n in range(5)]
    rows += [row(n, "holdout_cap", tokens=64) for n in range(77, 80)]
    rows += [
        row(
            n,
            "" if n < 82 else "too_short",
            document=f"code/<b>{n}</b>\u202e",
            source="code",
            domain="code",
            uri="/data/code/<img src=x>.py",
            licence="<i>MIT</i>",
            position=0,
            date="",
        )
        for n in range(80, 120)
    ]
    annotations = [
        {
            "document": found["document"],
            "domain": found["domain"],
            "language": "en" if n % 5 else "de",
            "gopher_characters": 40 * (n + 1) if found["domain"] == "web-en" else None,
            "pii_email": n % 2,
            "pii_phone": 0,
        }
        for n, found in enumerate(rows)
    ]
    examples = [
        {
            "reason": found["reason"],
            "document": found["document"],
            "uri": found["uri"],
            "position": found["position"],
            "domain": found["domain"],
            "excerpt": hostile if n % 2 else "Plain words of a text that was dropped. " * 7,
        }
        for n, found in enumerate(rows)
        if found["reason"] and "duplicate" not in found["reason"]
    ]
    return Refreshed(
        rows=rows,
        annotations=annotations,
        rejects=[
            Reject(uri="/data/web/a.jsonl", position=n, reason=reason, detail=hostile)
            for n, reason in enumerate(["malformed_json"] * 8 + ["bad_utf8"])
        ],
        leaks=[
            {"document": f"web/d{n}", "task": "quiz", "item": f"<q>{n}", "share": 0.75}
            for n in range(70, 74)
        ],
        examples=examples,
        tasks=[
            CheckedTask(task="quiz", items="quiz-1.json", documents_dropped=4),
            CheckedTask(task="riddles", items="riddles-1.json", documents_dropped=0),
        ],
    )


def _slices(rows: Sequence[dict[str, Any]]) -> tuple[DomainSlice, ...]:
    kept = [found for found in rows if found["split"] != "dropped"]

    def count(domain: str, split: str) -> tuple[int, int]:
        chosen = [one["tokens"] for one in kept if (one["domain"], one["split"]) == (domain, split)]
        return len(chosen), sum(chosen)

    slices: list[DomainSlice] = []
    for domain in sorted({found["domain"] for found in kept}):
        (train, train_tokens), (held, held_tokens) = (
            count(domain, "train"),
            count(domain, "holdout"),
        )
        slices.append(
            DomainSlice(
                domain=domain,
                train_samples=1,
                train_tokens=train_tokens,
                train_documents=train,
                holdout_documents=held,
                holdout_clusters=held,
                holdout_tokens=held_tokens,
                source_names=(),
                licences=(),
            )
        )
    return tuple(slices)


def _counted(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
