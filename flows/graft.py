"""``perennial graft``: an instruct model for a base that has learned since. Needs no server."""

from dataclasses import asdict, dataclass
from pathlib import Path

from flows.compare import Question, answer, contender
from flows.ground import Ground, head_of, open_ground
from flows.outcome import Outcome
from infra.log import set_up_logging
from infra.settings import Settings
from tasks.graft import RECORD, Grafted, graft_instruct


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What ``perennial graft`` was asked."""

    base: Path
    instruct: Path
    new_base: str
    """A directory, or a version of the lineage."""
    out: Path
    lineage: Path | None
    scale: float = 1.0
    texts: tuple[str, ...] = ()
    """Where given, the result is judged on them against the instruct model."""


def run_graft(wanted: Wanted, *, as_json: bool) -> Outcome:
    """Make the model, and judge it where there is text to judge it on.

    Raises:
        ValueError: The models do not belong together; names them.
    """
    set_up_logging(Settings().log_level)
    ground = open_ground(wanted.lineage) if wanted.lineage else None
    new_base = contender(wanted.new_base, ground)
    grafted = graft_instruct(
        wanted.base,
        wanted.instruct,
        new_base.directory,
        wanted.out,
        scale=wanted.scale,
        expected_base=_imported(ground) if ground and new_base.version else "",
    )
    told = [f"wrote {wanted.out}, with what it was made of in {RECORD}", *_lines(grafted)]
    if not wanted.texts:
        told.append(
            f"to judge it: perennial check {wanted.instruct} {wanted.out} --text instructions.jsonl"
        )
        return Outcome(
            lineage=ground.lineage.name if ground else "",
            kind="done",
            message="\n".join(told),
            details={"graft": asdict(grafted)},
        )
    question = Question(
        models=(str(wanted.instruct), str(wanted.out)), lineage=wanted.lineage, texts=wanted.texts
    )
    judged = answer(question, as_json=as_json)
    return Outcome(
        lineage=judged.lineage,
        kind=judged.kind,
        message="\n".join([*told, judged.message]),
        details={"graft": asdict(grafted), "check": judged.details},
        warnings=judged.warnings,
    )


def _imported(ground: Ground) -> str:
    """Identity of the model that the lineage was begun with; "" when it began from nothing."""
    return next(
        (record.update for record in head_of(ground).versions if record.verdict == "IMPORTED"), ""
    )


def _lines(grafted: Grafted) -> list[str]:
    """The cosines by layer: near 0, neither of two changes undoes the other."""
    lines = ["cosine between what the base learned and what the instruct model was taught:"]
    for change in grafted.layers:
        place = "outside the layers" if change.layer is None else f"layer {change.layer}"
        cosine = "no change" if change.cosine is None else f"{change.cosine:+.3f}"
        lines.append(
            f"  {place}: {cosine} (base moved {change.drift:.1%}, instruct {change.residual:.1%})"
        )
    return lines
