"""Where scores are computed has no influence on them; what is on record is not computed again."""

from pathlib import Path

import pytest

from tasks.scoring.place import Place
from tasks.scoring.scores import read_record, weights_of
from tasks.train import ComputeConfig
from tests.tasks.scoring.test_check import LAYOUT, Lineage, publish


@pytest.mark.parametrize(
    ("num_workers", "address", "has_more"),
    [(0, "auto", False), (1, "", False), (1, "auto", True), (2, "", True), ((1, 4), "", True)],
)
def test_ray_is_asked_only_where_it_has_more_than_this_process(
    num_workers: int | tuple[int, int], address: str, has_more: bool
) -> None:
    place = Place(compute=ComputeConfig(num_workers=num_workers), ray_address=address)
    assert place.has_more == has_more


@pytest.mark.ray
@pytest.mark.filterwarnings(r"ignore:.*\bdeprecated\b")  # importing ray.train reads such fields
def test_on_ray_a_check_gives_the_same_bits_and_leaves_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = Lineage(tmp_path)
    weights = [weights_of(lineage.store, LAYOUT, version) for version in ("1-x", "2-y")]
    here = lineage.check().slices
    records = [read_record(lineage.store, LAYOUT, one) for one in weights]
    for one in weights:
        for info in list(lineage.store.list(LAYOUT.model_scores(one))):
            lineage.store.delete(info.key)
    monkeypatch.setattr("tasks.scoring.compute.LITTLE_FLOPS", 0.0)
    place = Place(
        store_uri=(tmp_path / "store").as_uri(),
        compute=ComputeConfig(num_workers=2, threads_per_worker=1),
    )
    assert lineage.check(place=place).slices == here
    assert [read_record(lineage.store, LAYOUT, one) for one in weights] == records


def test_little_is_scored_in_this_process_whatever_ray_there_is(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path)
    publish(lineage.store, "3-z", tmp_path, seed=3)
    # Nobody is there, which would be told.
    place = Place(compute=ComputeConfig(num_workers=1), ray_address="127.0.0.1:1")
    assert lineage.check(candidate="3-z", place=place).slices
