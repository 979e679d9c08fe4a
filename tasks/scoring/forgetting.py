"""The matrix of forgetting and what it amounts to: transfer and forgetting, in nats per token.

Pure: the matrix is read from the record by ``tasks.scoring.scores``. The usual measures are stated
for accuracies, of which more is better. Here they are of losses, and every sign is turned so that a
number means the same: transfer above 0 is good, forgetting above 0 is bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.head import Decision, VersionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One version of the lineage in the matrix of forgetting."""

    version: str
    decision: Decision
    is_champion: bool
    nats_per_token: tuple[float | None, ...]
    """Held-out loss by slice; None where this version was not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingMatrix:
    """Held-out losses of all versions on all slices: down a column one sees what was forgotten.

    A column is of the same documents in all its rows: those that every version with scores there
    was scored on.
    """

    slices: tuple[str, ...]
    """``<domain>@<snapshot>``, by the age of the snapshot, then by domain."""
    rows: tuple[MatrixRow, ...]
    """Oldest version first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """What the last version of a chain remembers; None where no slice tells."""

    backward_slices: int
    """Slices learned before the last update and scored both then and now."""
    backward_transfer: float | None
    """Mean fall of their loss since the update that learned them; below 0 is forgetting."""
    forward_slices: int
    """Slices that some version was scored on before it learned them."""
    forward_transfer: float | None
    """Mean of how far the version before lay below a model that knows nothing, nats per token."""
    forgetting_slices: int
    """Slices learned before the last update and scored now."""
    mean_forgetting: float | None
    """Mean rise of their loss over the lowest of any version of the chain; at least 0."""
    worst_forgetting: float | None
    worst_slice: str
    """Which it is of; "" without any."""


def forgetting(
    slices: Sequence[str],
    losses: Sequence[Sequence[float | None]],
    learned_by: Sequence[int | None],
    *,
    untrained: float,
) -> Forgetting:
    """Transfer and forgetting of the last row of ``losses``.

    Forgetting of slice j is ``max_i a_ij - a_Tj``, the mean over the slices that were learned
    before T, as in RWalk (Chaudhry et al. 2018, arXiv:1801.10112), with a = -loss and i over all
    rows, so that it is never negative. Transfers are those of GEM (Lopez-Paz and Ranzato 2017,
    arXiv:1706.08840).

    Args:
        slices: Names of the columns.
        losses: ``[update][slice]``, nats per token, oldest first; None where nothing was scored.
        learned_by: By column, the row that learned it; None for one that no row learned.
        untrained: Loss of a model that knows nothing: the logarithm of the size of the vocabulary.

    Raises:
        ValueError: Rows or ``learned_by`` have another length than ``slices``, or there is no row.
    """
    widths = {len(row) for row in losses} | {len(learned_by)}
    if widths != {len(slices)} or not losses:
        raise ValueError(
            f"expected one row or more of {len(slices)} losses and as many learners, found "
            f"{len(losses)} rows and widths {sorted(widths)}"
        )
    last = len(losses) - 1
    backward: list[float] = []
    forward: list[float] = []
    rises: dict[str, float] = {}
    for column, learner in enumerate(learned_by):
        if learner is None:
            continue
        before = losses[learner - 1][column] if learner > 0 else None
        if before is not None:
            forward.append(untrained - before)
        now, then = losses[last][column], losses[learner][column]
        if learner == last or now is None:
            continue
        if then is not None:
            backward.append(then - now)
        known = [row[column] for row in losses]
        rises[slices[column]] = now - min(loss for loss in known if loss is not None)
    # The name breaks ties, so that the order of the columns does not matter.
    worst = max(rises, key=lambda name: (rises[name], name), default="")
    return Forgetting(
        backward_slices=len(backward),
        backward_transfer=_mean(backward),
        forward_slices=len(forward),
        forward_transfer=_mean(forward),
        forgetting_slices=len(rises),
        mean_forgetting=_mean(list(rises.values())),
        worst_forgetting=rises.get(worst),
        worst_slice=worst,
    )


def forgetting_of(
    matrix: ForgettingMatrix, records: Sequence[VersionRecord], version: str, *, untrained: float
) -> Forgetting:
    """``forgetting`` along the chain that leads from the first version to ``version``.

    A version that was refused is in no chain but its own: what it forgot, nobody inherits.

    Args:
        matrix: Has a row of every version of the chain.
        records: Of all versions, ``version`` among them.
        version: The end of the chain.
        untrained: As in ``forgetting``.
    """
    chain = _chain(records, version)
    rows = {row.version: row.nats_per_token for row in matrix.rows}
    snapshots = [name.rpartition("@")[2] for name in matrix.slices]
    learned_by = [
        next((i for i, record in enumerate(chain) if snapshot in record.snapshots), None)
        for snapshot in snapshots
    ]
    losses = [rows[record.version] for record in chain]
    return forgetting(matrix.slices, losses, learned_by, untrained=untrained)


def _chain(records: Sequence[VersionRecord], version: str) -> list[VersionRecord]:
    """From the first version to ``version``."""
    by_name = {record.version: record for record in records}
    chain: list[VersionRecord] = []
    at: str | None = version
    while at is not None:
        chain.append(by_name[at])
        at = by_name[at].parent
    return chain[::-1]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
