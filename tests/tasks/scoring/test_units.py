"""Units of a slice: a partition of its documents by whole clusters, in an order of hashes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring.units import UNIT_TOKENS, units_of
from training.data.holdout import HoldoutDocument

_documents = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3000)), max_size=40).map(
    lambda rows: [
        HoldoutDocument(
            document=f"d{number}",
            cluster=f"c{cluster}",
            tokens=np.zeros(targets + 1, np.uint16),
            text_bytes=targets,
        )
        for number, (cluster, targets) in enumerate(rows)
    ]
)


@given(documents=_documents)
def test_every_document_is_in_one_unit_with_all_of_its_cluster(
    documents: list[HoldoutDocument],
) -> None:
    units = units_of(documents, "web@a")
    rows = [row for unit in units for row in unit.rows]
    assert sorted(rows) == list(range(len(documents)))
    clusters = [cluster for unit in units for cluster in set(unit.clusters)]
    assert len(clusters) == len(set(clusters))
    for unit in units:
        assert unit.documents == tuple(row.document for row in unit.pick(documents))
        assert unit.targets == tuple(len(row.tokens) - 1 for row in unit.pick(documents))
        # More than a pass only where a single cluster is.
        assert unit.tokens <= UNIT_TOKENS or len(set(unit.clusters)) == 1


def test_units_are_nearly_full() -> None:
    documents = [
        HoldoutDocument(f"d{n}", f"c{n}", np.zeros(101 + n % 300, np.uint16), 9) for n in range(900)
    ]
    *whole, _ = units_of(documents, "web@a")
    assert min(unit.tokens for unit in whole) > 0.95 * UNIT_TOKENS


def test_another_slice_deals_the_same_clusters_out_in_another_order() -> None:
    documents = [HoldoutDocument(f"d{n}", f"c{n}", np.zeros(500, np.uint16), 9) for n in range(90)]
    first, second = (units_of(documents, name)[0].clusters for name in ("web@a", "web@b"))
    assert set(first) != set(second)
