"""The chain of versions, as the heads and what is stored beside them tell it."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.chain import Chain, Delta, Edge, Origin, read_chain
from storage.head import Head, VersionRecord, commit, history, read_head_number
from storage.local_objects import LocalObjects
from storage.manifest import publish
from storage.taking_back import rollback
from storage.transitions import promote, reject, with_verdict
from tasks.branch import branch_plan
from tasks.judge.verdict import DomainRow
from tasks.reporting.page import verdict_key
from tasks.take_over import begin
from tasks.update_plan import UpdatePlan
from tests.support.lineages import LAYOUT, add_snapshot, candidate, newest, report_of
from tests.tasks.test_unfinished import begun


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path / "store")
    add_snapshot(store, 1, tokenizer="tokenizers/t")
    return store


def judged(store: LocalObjects, verdict: str, reason: str = "") -> VersionRecord:
    """A candidate with its verdict, committed."""
    head = newest(store)
    record = candidate(head, verdict, reason=reason)
    commit(store, LAYOUT, with_verdict(head, record, replay="replay", by="night"))
    return record


def chain_of_store(store: LocalObjects) -> Chain:
    return read_chain(store, LAYOUT, history(store, LAYOUT))


def back(store: LocalObjects, to: str) -> Head:
    head = newest(store)
    earlier = rollback(
        head,
        lambda number: read_head_number(store, LAYOUT, number),
        to=to,
        by="bob",
        reason="answers rudely",
    )
    commit(store, LAYOUT, earlier)
    return earlier


def test_every_version_hangs_off_the_champion_that_it_was_compared_with(
    store: LocalObjects,
) -> None:
    first = judged(store, "PASS")
    add_snapshot(store, 2)
    refused = judged(store, "FAIL", "prose is worse")
    second = judged(store, "PASS")
    chain = chain_of_store(store)
    assert [(edge.parent, edge.version) for edge in chain.edges] == [
        (None, first.version),
        (first.version, refused.version),
        (first.version, second.version),
    ]
    assert [(node.decision, node.is_champion) for node in chain.nodes] == [
        ("published", False),
        ("refused", False),
        ("published", True),
    ]
    assert chain.nodes[1].reason == "prose is worse"
    assert chain.nodes[1].by == "night"


def test_a_decision_is_told_with_who_and_why_and_the_verdict_keeps_its_own_reason(
    store: LocalObjects,
) -> None:
    judged(store, "PASS")
    add_snapshot(store, 2)
    waiting = judged(store, "AMBIGUOUS", "no gain was shown")
    commit(store, LAYOUT, reject(newest(store), waiting.version, by="ann", reason="too little"))
    told = promote(newest(store), waiting.version, replay="replay", by="bob", reason="looked again")
    commit(store, LAYOUT, told)
    node = chain_of_store(store).nodes[1]
    assert node.reason == "no gain was shown"
    assert [(event.action, event.by, event.reason, event.to) for event in node.events] == [
        ("reject", "ann", "too little", None),
        ("promote", "bob", "looked again", None),
    ]


def test_a_rollback_over_two_versions_is_one_event_on_the_champion_that_it_ended(
    store: LocalObjects,
) -> None:
    first = judged(store, "PASS")
    add_snapshot(store, 2)
    judged(store, "PASS")
    add_snapshot(store, 3)
    judged(store, "PASS")
    head = back(store, first.version)
    nodes = chain_of_store(store).nodes
    assert [node.decision for node in nodes] == ["published", "rolled_back", "rolled_back"]
    assert [node.is_champion for node in nodes] == [True, False, False]
    assert [len(node.events) for node in nodes] == [0, 0, 1]
    event = nodes[2].events[0]
    assert (event.action, event.head, event.by, event.to) == (
        "rollback",
        head.number,
        "bob",
        first.version,
    )


def test_an_edge_has_the_gain_and_the_old_domain_that_lost_most(store: LocalObjects) -> None:
    judged(store, "PASS")
    add_snapshot(store, 2)
    record = judged(store, "PASS")
    report = report_of(record)
    gain = report.rows[0]

    def row(domain: str, test: str, difference: float | None) -> DomainRow:
        return replace(
            gain,
            domain=domain,
            role="old",
            test=test,  # pyright: ignore[reportArgumentType]
            difference=difference,
            upper_bound=None if difference is None else difference + 0.01,
        )

    rows = (
        gain,
        row("code", "loss", -0.02),
        row("prose", "loss", 0.03),
        row("wiki", "shown", 0.5),
        row("news", "cumulative", 0.7),
    )
    publish(store, verdict_key(LAYOUT, record.update), replace(report, rows=rows))
    edge = chain_of_store(store).edges[1]
    assert edge == Edge(
        parent=record.parent,
        version=record.version,
        gain=Delta(
            domain="news",
            against=record.parent or "",
            difference=-0.5,
            upper_bound=-0.25,
            confidence=0.95,
        ),
        worst_old=Delta(
            domain="prose",
            against=record.parent or "",
            difference=0.03,
            upper_bound=0.04,
            confidence=0.95,
        ),
        tokens=None,
    )


def test_a_loss_that_is_not_a_number_is_the_worst(store: LocalObjects) -> None:
    record = judged(store, "FAIL")
    report = report_of(record)
    bad = replace(report.rows[0], test="loss", domain="code", difference=None, upper_bound=None)
    large = replace(report.rows[0], test="loss", domain="prose", difference=9.0)
    publish(store, verdict_key(LAYOUT, record.update), replace(report, rows=(large, bad)))
    worst = chain_of_store(store).edges[0].worst_old
    assert worst is not None
    assert (worst.domain, worst.difference) == ("code", None)


def test_a_cool_down_names_the_step_and_the_version_that_it_branches_from(
    store: LocalObjects,
) -> None:
    plan = begun(store, 3, 6)
    head = newest(store)
    record = replace(candidate(head, "FAIL"), update=plan.id, version=plan.version)
    commit(store, LAYOUT, with_verdict(head, record, replay=None, by="night"))
    branch = branch_plan(store, LAYOUT, newest(store), f"{plan.id}/step-3", 100)
    assert isinstance(branch, UpdatePlan)
    begin(store, LAYOUT, branch)
    head = newest(store)
    cooled = replace(candidate(head, "PASS"), update=branch.id, version=branch.version)
    commit(store, LAYOUT, with_verdict(head, cooled, replay="replay", by="night"))
    edge = chain_of_store(store).edges[1]
    assert edge.tokens == branch.total_tokens
    assert edge.origin == Origin(update=plan.id, version=plan.version, step=3, mode="branch")


def test_a_lineage_without_versions_has_an_empty_chain(store: LocalObjects) -> None:
    assert chain_of_store(store) == Chain(lineage="demo", nodes=(), edges=())
    assert read_chain(store, LAYOUT, []) == Chain(lineage="demo", nodes=(), edges=())
