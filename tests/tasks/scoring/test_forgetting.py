import math
from dataclasses import replace

import pytest

from storage.head import VersionRecord
from tasks.scoring.forgetting import (
    Forgetting,
    ForgettingMatrix,
    MatrixRow,
    forgetting,
    forgetting_of,
)

# Three updates; update k learned slice k. Losses, so lower is better. Binary fractions: exact sums.
LOSSES = (
    (2.0, 5.0, 6.0),
    (2.5, 1.0, 4.0),
    (2.25, 1.75, 1.5),
)
UNTRAINED = 8.0


def of(losses: tuple[tuple[float | None, ...], ...], *learned_by: int | None) -> Forgetting:
    names = tuple(f"d@{column}" for column in range(len(learned_by)))
    return forgetting(names, losses, learned_by, untrained=UNTRAINED)


def test_a_matrix_made_by_hand_gives_the_exact_measures() -> None:
    found = of(LOSSES, 0, 1, 2)
    # Slice 0 went 2.0 -> 2.25, slice 1 went 1.0 -> 1.75: each loss rose, so transfer is negative.
    assert found.backward_transfer == -(0.25 + 0.75) / 2
    # Slices 1 and 2 as seen by the version before their own: 8 - 5 and 8 - 4.
    assert found.forward_transfer == (3.0 + 4.0) / 2
    assert found.mean_forgetting == (0.25 + 0.75) / 2
    assert found.worst_forgetting == 0.75
    assert found.worst_slice == "d@1"
    assert (found.backward_slices, found.forward_slices, found.forgetting_slices) == (2, 2, 2)


def test_forgetting_is_measured_from_the_best_version_and_transfer_from_the_learner() -> None:
    # The second update made the first slice better still: the third lost that again.
    losses = ((2.0, 5.0), (1.5, 1.0), (2.0, 1.0))
    found = of(losses, 0, 1)
    assert found.backward_transfer == 0.0
    assert found.worst_forgetting == 0.5
    assert found.worst_slice == "d@0"


def test_getting_better_on_everything_is_no_forgetting() -> None:
    found = of(((2.0, 4.0), (1.0, 1.0)), 0, 1)
    assert found.backward_transfer == 1.0
    assert found.mean_forgetting == found.worst_forgetting == 0.0


def test_the_first_version_has_nothing_to_forget() -> None:
    found = of(((2.0, 3.0),), 0, 0)
    assert found.backward_transfer is None
    assert found.forward_transfer is None
    assert found.mean_forgetting is None
    assert (found.worst_forgetting, found.worst_slice) == (None, "")


def test_what_was_not_scored_counts_nowhere() -> None:
    holes = ((2.0, None, 6.0), (2.5, None, None), (2.25, 1.75, None))
    found = of(holes, 0, 1, 2)
    assert (found.backward_slices, found.backward_transfer) == (1, -0.25)
    assert (found.forward_slices, found.forward_transfer) == (0, None)
    # Slice 1 has one score alone, which is its best.
    assert (found.forgetting_slices, found.mean_forgetting) == (2, 0.125)


def test_a_slice_that_nobody_learned_counts_nowhere() -> None:
    found = of(LOSSES, 0, None, 2)
    assert (found.backward_slices, found.forward_slices, found.forgetting_slices) == (1, 1, 1)
    assert (found.backward_transfer, found.worst_slice) == (-0.25, "d@0")


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 2 losses and as many learners, found 1 rows"):
        forgetting(("a", "b"), ((1.0,),), (0, 0), untrained=1.0)


def record(version: str, parent: str | None, *snapshots: str) -> VersionRecord:
    return VersionRecord(
        version=version,
        update=version,
        verdict="PASS",
        decision="published",
        parent=parent,
        trunk=None,
        snapshots=snapshots,
        replay=None,
        on_head=1,
    )


def test_a_refused_version_is_in_nobodys_chain() -> None:
    records = [
        record("1-a", None, "s1"),
        replace(record("2-b", "1-a", "s2"), verdict="FAIL", decision="refused"),
        record("3-c", "1-a", "s2", "s3"),
    ]
    rows = ((2.0, 5.0, None), (1.0, 1.0, None), (2.5, 2.0, 3.0))
    matrix = ForgettingMatrix(
        slices=("web@s1", "web@s2", "code@s3"),
        rows=tuple(
            MatrixRow(
                version=found.version,
                decision=found.decision,
                is_champion=False,
                nats_per_token=row,
            )
            for found, row in zip(records, rows, strict=True)
        ),
    )
    found = forgetting_of(matrix, records, "3-c", untrained=math.log(4096))
    # Not 1.5: the refused version's 1.0 on web@s1 was never in use.
    assert found.worst_forgetting == 0.5
    assert found.forward_transfer == math.log(4096) - 5.0
    assert found.forgetting_slices == 1
