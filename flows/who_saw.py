"""``perennial who-saw``: which documents, and which versions of the model know them. Read-only."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flows.ground import open_ground
from flows.output import as_name, as_printable, say
from flows.text_file import text_of
from storage.head import Head, history
from tasks.who_saw import Sighting, who_saw


def print_who_saw(
    lineage_file: Path, *, ids: Sequence[str], files: Sequence[Path], as_json: bool
) -> None:
    """Every place of the documents asked for, and who saw them there.

    Raises:
        ValueError: Nothing was asked for, or a file is no text.
    """
    if not ids and not files:
        raise ValueError("expected a document to look for: give --id ID or --text FILE")
    ground = open_ground(lineage_file)
    heads = history(ground.store, ground.layout)
    found = who_saw(
        ground.store,
        ground.layout,
        heads,
        ids=ids,
        texts=[text_of(file) for file in files],
        near=ground.lineage.near_duplicates,
        work_dir=ground.work_dir,
    )
    if as_json:
        say(json.dumps([asdict(sighting) for sighting in found], indent=2))
        return
    if not found:
        say(f"no snapshot of {ground.lineage.name} has such a document")
    for sighting in found:
        say(as_printable("\n".join(_lines(sighting, heads[-1]))))


def _lines(sighting: Sighting, head: Head) -> list[str]:
    uri = as_name(sighting.uri)
    place = f"{uri}:{sighting.position}" if sighting.position else uri
    dropped = f" ({sighting.reason})" if sighting.reason else ""
    alike = "" if sighting.likeness == 1 else f", about {sighting.likeness:.0%} of it in common"
    twin = f", which {as_name(sighting.twin_of)} repeats" if sighting.twin_of else ""
    lines = [
        f"{as_name(sighting.document)} in snapshot {sighting.snapshot} ({sighting.state}), "
        f"{sighting.domain}: {sighting.split}{dropped}{twin}{alike}",
        f"  read from {place}",
    ]
    lines += [
        f"  learned by update {one.update}: {one.exposures} times, {one.tokens:,} tokens"
        for one in sighting.learned
    ]
    lines += [
        f"  known to version {one.version} "
        f"({'the champion' if one.version == head.champion else one.decision})"
        for one in sighting.versions
    ]
    if sighting.replay:
        now = ", the present one among them" if head.replay in sighting.replay else ""
        lines.append(f"  its domain is in {len(sighting.replay)} versions of the replay{now}")
    if not sighting.learned:
        lines.append("  no update was trained on it")
    return lines
