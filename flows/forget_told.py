"""What a takedown tells: what would go, what went, what is left."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flows import update_steps as steps
from flows.ground import Ground
from flows.outcome import Outcome
from flows.output import as_name
from storage.head import read_head
from storage.takedowns import FORGOTTEN, UnkeptText
from tasks.drop_reasons import is_elsewhere
from tasks.forget.forget import Done, Forecast, Site
from tasks.forget.others import others_with
from tasks.forget.passages import Passages

_MOST_NAMED = 20


def foreseen(ground: Ground, forecast: Forecast, keys: Sequence[str]) -> Outcome:
    """What would be done; ``keys`` are the objects that would be replaced or removed."""
    found = forecast.found
    lines = [
        f"would forget {len(found.documents):,} documents in "
        f"{len({one.snapshot for one in found.documents}):,} snapshots:"
    ]
    lines += [
        f"  {as_name(one.document)} in snapshot {one.snapshot}, {one.domain}: {one.split}, "
        f"{one.why}"
        for one in found.documents[:_MOST_NAMED]
    ]
    if len(found.documents) > _MOST_NAMED:
        lines.append(f"  and {len(found.documents) - _MOST_NAMED:,} more")
    lines += [
        f"  of {as_name(document)}, dropped as {one.reason}, no text was kept"
        for document, one in list(found.unkept.items())[:_MOST_NAMED]
    ]
    lines += [
        _seen_by(forecast.versions, ", which would be marked"),
        f"drawn from by {len(forecast.replay):,} versions of the replay, which hold no copies",
        f"would replace or remove {len(keys):,} objects:",
        *(f"  {key}" for key in keys[:_MOST_NAMED]),
    ]
    if len(keys) > _MOST_NAMED:
        lines.append(f"  and {len(keys) - _MOST_NAMED:,} more")
    lines.append("nothing was changed")
    head = read_head(ground.store, ground.layout)
    details: dict[str, Any] = {
        "takedown": found.id,
        "documents": [asdict(one) for one in found.documents],
        "versions": forecast.versions,
        "replay": forecast.replay,
        "objects": keys,
        "unkept": {document: asdict(one) for document, one in found.unkept.items()},
    }
    return steps.outcome(
        ground,
        head,
        "planned",
        "\n".join(lines),
        details=details,
        warnings=(
            *_too_short(found.too_short),
            *_not_kept(list(found.unkept.values())),
            *_unindexed(forecast.unindexed),
            *_elsewhere(forecast.machines),
        ),
    )


def told_of(ground: Ground, site: Site, dones: Sequence[Done], warnings: Sequence[str]) -> Outcome:
    """What was done, and what was not, without a word of what was forgotten."""
    lines: list[str] = []
    more: list[str] = list(warnings)
    for done in dones:
        lines += _lines(done)
        more += [
            f"task {name} of the YAML has items that quote it: take them out of its file, or they "
            "come back with the next update"
            for name in done.takedown.tasks
        ]
        if done.proof.places:
            passages = Passages(done.takedown.windows)
            others = others_with(
                site.store, site.layout, done.proof.places, passages, site.work_dir
            )
            more += _left(done, others)
        if not done.takedown.windows:
            more += _too_short(done.takedown.too_short)
        more += _not_kept(done.takedown.unkept)
    is_left = any(
        done.proof.places or any(map(_is_somewhere, done.takedown.unkept)) for done in dones
    )
    details = {
        "takedowns": [
            {
                "id": done.takedown.id,
                "documents": len(done.takedown.documents),
                "snapshots": done.takedown.snapshots,
                "versions": done.takedown.versions,
                "unkept": [asdict(one) for one in done.takedown.unkept],
                "proof": asdict(done.proof),
            }
            for done in dones
        ]
    }
    return steps.outcome(
        ground,
        read_head(ground.store, ground.layout),
        "left over" if is_left else "done",
        "\n".join(lines),
        details=details,
        warnings=tuple(dict.fromkeys((*more, *_elsewhere(dones[-1].machines)))),
    )


def _lines(done: Done) -> list[str]:
    takedown, proof = done.takedown, done.proof
    return [
        f"takedown {takedown.id}: {len(takedown.documents):,} documents in "
        f"{len({one.snapshot for one in takedown.documents}):,} snapshots are forgotten, copies "
        "stay out",
        _seen_by(takedown.versions, "; marked as saw_forgotten"),
        f"searched {proof.objects:,} objects in {proof.versions:,} versions and "
        f"{proof.local_files:,} files, {proof.num_bytes / 1e6:,.1f} MB, for {proof.windows:,} "
        f"passages of text and tokens: {len(proof.places):,} places have any",
    ]


def _left(done: Done, others: Sequence[str]) -> list[str]:
    told = [
        f"{place.passages} of {done.proof.windows} passages stand in {place.where}"
        + (f", version {place.version}" if place.version else "")
        for place in done.proof.places
    ]
    if others:
        told.append(
            f"they are also what these documents say, which were not asked for: "
            f"{', '.join(map(as_name, others[:_MOST_NAMED]))}; forget them too if they should go"
        )
    return told


def _seen_by(versions: Sequence[str], marked: str) -> str:
    return f"seen by versions {', '.join(versions)}{marked}" if versions else "seen by no version"


def _too_short(texts: int) -> list[str]:
    if not texts:
        return []
    return [f"{texts} texts are too short to be searched for: fewer than 24 bytes"]


def _is_somewhere(text: UnkeptText) -> bool:
    """Whether a lineage has what the text says, and nobody has looked for it."""
    return is_elsewhere(text.reason) and not text.is_repeated


def _not_kept(texts: Sequence[UnkeptText]) -> list[str]:
    """Of documents of which no text is there: what became of the search for it."""
    told: list[str] = []
    for text, count in sorted(Counter(texts).items(), key=lambda item: item[0].reason):
        whose = "the text of 1 document" if count == 1 else f"the text of {count:,} documents"
        if text.reason == FORGOTTEN:
            told.append(f"{whose} was forgotten before, and is not searched for again")
            continue
        begin = f"{whose} was not kept: dropped as {text.reason}"
        if text.is_repeated:
            told.append(f"{begin}; searched for is what it nearly repeats, which goes with it")
        elif is_elsewhere(text.reason):
            told.append(
                f"{begin}, which says that its words stand elsewhere in the lineage or its tasks, "
                "and they are neither searched for nor known to have been learned; they can be "
                "found by --text FILE only"
            )
        else:
            told.append(f"{begin}; it is not searched for, which can be done by --text FILE only")
    return told


def _unindexed(snapshots: int) -> list[str]:
    if not snapshots:
        return []
    return [
        f"{snapshots} snapshots have no signatures yet: near copies there are found when documents "
        "are forgotten, not by a dry run"
    ]


def _elsewhere(machines: Sequence[str]) -> list[str]:
    if not machines:
        return []
    return [
        f"other machines may have local copies: {', '.join(machines)}; remove what lies in their "
        "scratch folders (work/ in PERENNIAL_HOME) while nothing runs there"
    ]
