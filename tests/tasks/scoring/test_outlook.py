"""Before anything is trained, a plan says what its verdict will see, and names what it will not."""

from dataclasses import replace
from pathlib import Path

from storage.head import VersionRecord
from storage.manifest import identity_of
from storage.suite import publish_suite
from tasks.judge.verdict import CheckConfig
from tasks.plan_text import describe_outlook
from tasks.scoring.outlook import with_outlook
from tasks.update_plan import UpdatePlan
from tests.support.holdout_nights import LAYOUT, Nights
from tests.training.tiny_run import tiny_plan
from training.config import Recipe


def planned(nights: Nights, tmp_path: Path, *, champion: str | None = "1-x") -> UpdatePlan:
    """Of the newest snapshot."""
    assert nights.suite is not None
    publish_suite(nights.store, LAYOUT, nights.suite)
    head = replace(nights.head, suite=nights.suite.id)
    plan = UpdatePlan(
        id="u" * 16,
        version="2-uuuuuuuu",
        lineage="demo",
        champion=champion,
        trunk=None,
        snapshots=(head.snapshots[-1].id,),
        new_tokens=10,
        replay=None,
        replay_share_requested=0.0,
        replay_share=0.0,
        suite=nights.suite.id,
        recipe=Recipe(seq_len=16),
        train=tiny_plan(tmp_path / "tiny")[0],
    )
    return with_outlook(
        nights.store, LAYOUT, head, plan, CheckConfig(), work_dir=tmp_path / "work", keep=True
    )


def test_guards_and_gain_are_told_with_what_they_can_show(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "lineage", clusters=200)
    nights.refresh()
    nights.refresh()
    plan = planned(nights, tmp_path)
    lines = describe_outlook(plan)
    assert plan.unguarded == ()
    assert lines[0].startswith("judged by a gain on new data: 400 clusters, ")
    assert lines[1].startswith("guarded by old text, 2 of at most 20 guards, ")
    assert [line.split(":")[0] for line in lines[2:]] == ["  code", "  news"]
    assert all("beyond its margin of 0.05" in line for line in lines[2:])


def test_what_is_too_little_to_show_a_loss_is_named_with_what_would_help(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "lineage", clusters=20)
    nights.refresh()
    nights.refresh()
    (first, second) = planned(nights, tmp_path).unguarded
    assert first.startswith("code: its 20 clusters show losses only from 0.")
    assert "so that even an unchanged model may not pass; more and smaller clusters" in first
    assert second.startswith("news: ")


def test_a_first_version_has_nothing_to_lose(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "lineage")
    nights.refresh()
    plan = planned(nights, tmp_path, champion=None)
    assert (plan.guards, plan.unguarded) == ((), ())
    assert plan.gain is not None


def test_an_imported_base_without_reference_and_a_domain_without_holdout_are_named(
    tmp_path: Path,
) -> None:
    nights = Nights(tmp_path / "lineage", clusters=200)
    nights.refresh()
    assert nights.suite is not None
    slices = tuple(item for item in nights.suite.slices if item.domain != "news")
    nights.suite = replace(nights.suite, slices=slices, id=identity_of(slices)[:12])
    imported = VersionRecord(
        version="1-x",
        update="0" * 16,
        verdict="IMPORTED",
        decision="published",
        parent=None,
        trunk=None,
        snapshots=(),
        replay=None,
        on_head=1,
    )
    nights.head = replace(nights.head, versions=(imported,))
    base, news = planned(nights, tmp_path).unguarded
    assert base.startswith("what the imported base model knew: nothing is held out that is like it")
    assert news.startswith("news: nothing of it is held out")
