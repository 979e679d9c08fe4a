"""The chain of versions as lines of text."""

import json
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.cells import cell_len

from flows.chain import Action, Chain, Delta, Edge, Event, Node, Origin
from flows.history_graph import ASCII, UNICODE, draw
from storage.head import Decision, Verdict
from tests.support.commands import Commands
from tests.support.manual import MANUAL
from tests.support.tiny_lineage import TinyLineage

NIGHTS = """\
  ○ 8-f9eadbc8  2026-11-08 03:00  AMBIGUOUS, waits for a person
  │   new data -0.004 (95% at most +0.016), worst old prose +0.001 (95% at most +0.011), 12.3M
  │   tokens
  │   no gain was shown
╭─╯
◉ 7-daad804f  2026-11-07 03:00  PASS, published, champion now
│   new data -0.150 (95% at most -0.130), worst old prose +0.003 (95% at most +0.013), 12.3M tokens
│ ✗ 2026-11-07 09:30  rejected by ann: too little to see
│ ✗ 6-bb7024d6  2026-11-06 03:00  AMBIGUOUS, rejected
│ │   new data -0.010 (95% at most +0.010), worst old prose +0.000 (95% at most +0.010), 12.3M
│ │   tokens
│ │   no gain was shown
├─╯
│ ↓ 2026-11-06 09:30  rolled back to 4-7cf56de4 by ann: answers rudely
│ ✗ 5-9c32c95d  2026-11-05 03:00  PASS, rolled back
│ │   new data -0.120 (95% at most -0.100), worst old prose -0.001 (95% at most +0.009), 12.3M
│ │   tokens
├─╯
↑ 2026-11-05 09:30  promoted by ann: read the report, it is fine
● 4-7cf56de4  2026-11-04 03:00  AMBIGUOUS, promoted
│   new data -0.030 (95% at most -0.010), worst old prose +0.012 (95% at most +0.022), 12.3M tokens
│   cool-down from step 400 of 3-5db8126b
│   the evidence does not decide
│ ✗ 3-5db8126b  2026-11-03 03:00  FAIL, refused
│ │   new data -0.280 (95% at most -0.260), worst old prose +0.210 (95% at most +0.220), 12.3M
│ │   tokens
│ │   prose is worse by 0.210 nats per token
├─╯
● 2-3e7ab6f2  2026-11-02 03:00  PASS, published
│   new data -0.310 (95% at most -0.290), worst old prose +0.004 (95% at most +0.014), 12.3M tokens
◆ 1-1f3d5b79  2026-11-01 03:00  IMPORTED by night@server

Times are UTC. Differences to the version that each was compared with, in nats per token: below 0 is
better; in brackets how sure they are of at most how much. Then the tokens trained."""


FROM_NOTHING = """\
  o 4-7cf56de4  2026-11-04 03:00  AMBIGUOUS, waits for a
  | person
  |   new data -0.004 (95% at most +0.016), worst old prose
  |   +0.001 (95% at most +0.011), 12.3M tokens
  |   no gain was shown
 /
@ 3-5db8126b  2026-11-03 03:00  PASS, published, champion
| now
|   new data -0.150 (95% at most -0.130), worst old prose
|   +0.003 (95% at most +0.013), 12.3M tokens
* 2-3e7ab6f2  2026-11-02 03:00  PASS, published
    new data -2.500 against unigram (95% at most -2.480),
    12.3M tokens
x 1-1f3d5b79  2026-11-01 03:00  FAIL, refused
    new data +0.200 against unigram (95% at most +0.220),
    12.3M tokens
    worse than a unigram model

Times are UTC. Differences to the version that each was
compared with, in nats per token: below 0 is better; in
brackets how sure they are of at most how much. Then the
tokens trained."""
TWICE_BACK = """\
  ↓ 2026-11-05 09:30  rolled back to 1-1f3d5b79 by ann: answers rudely
  ✗ 4-7cf56de4  2026-11-04 03:00  PASS, rolled back
  │ ✗ 3-5db8126b  2026-11-03 03:00  FAIL, refused
  │ │   7 tokens
  ├─╯
  ✗ 2-3e7ab6f2  2026-11-02 03:00  PASS, rolled back
╭─╯
◉ 1-1f3d5b79  2026-11-01 03:00  IMPORTED by night@server, champion now"""


def node(
    number: int,
    verdict: Verdict,
    decision: Decision,
    *events: Event,
    is_champion: bool = False,
    reason: str = "",
) -> Node:
    return Node(
        version=f"{number}-{number * 0x1F3D5B79 % 2**32:08x}",
        update=f"update{number}",
        verdict=verdict,
        decision=decision,
        is_champion=is_champion,
        head=10 * number,
        at=f"2026-11-{number:02d}T03:00:00+00:00",
        by="night@server",
        reason=reason,
        events=events,
    )


def event(action: Action, number: int, reason: str, *, to: str | None = None) -> Event:
    """The day after version ``number`` was judged."""
    at = f"2026-11-{number + 1:02d}T09:30:00+00:00"
    return Event(action=action, head=10 * number + 5, at=at, by="ann", reason=reason, to=to)


def delta(domain: str, difference: float, bound: float, against: str = "parent") -> Delta:
    return Delta(
        domain=domain,
        against=against,
        difference=difference,
        upper_bound=bound,
        confidence=0.95,
    )


def edge(
    parent: Node | None, child: Node, gain: float, loss: float | None, origin: Origin | None = None
) -> Edge:
    return Edge(
        parent=parent.version if parent else None,
        version=child.version,
        gain=delta("new data", gain, gain + 0.02, "parent" if parent else "unigram"),
        worst_old=None if loss is None else delta("prose", loss, loss + 0.01),
        tokens=12_300_000,
        origin=origin,
    )


def nights() -> Chain:
    """An import, a refusal, a promotion, a roll-back, a rejection, a cool-down, one that waits."""
    base = node(1, "IMPORTED", "published")
    second = node(2, "PASS", "published", reason="better on the new data")
    third = node(3, "FAIL", "refused", reason="prose is worse by 0.210 nats per token")
    promoted = event("promote", 4, "read the report, it is fine")
    fourth = node(4, "AMBIGUOUS", "published", promoted, reason="the evidence does not decide")
    back = event("rollback", 5, "answers rudely", to=fourth.version)
    fifth = node(5, "PASS", "rolled_back", back)
    rejected = event("reject", 6, "too little to see")
    sixth = node(6, "AMBIGUOUS", "rejected", rejected, reason="no gain was shown")
    seventh = node(7, "PASS", "published", is_champion=True)
    eighth = node(8, "AMBIGUOUS", "awaiting", reason="no gain was shown")
    cooled = Origin(update="update3", version=third.version, step=400, mode="branch")
    return Chain(
        lineage="news",
        nodes=(base, second, third, fourth, fifth, sixth, seventh, eighth),
        edges=(
            edge(base, second, -0.31, 0.004),
            edge(second, third, -0.28, 0.21),
            edge(second, fourth, -0.03, 0.012, cooled),
            edge(fourth, fifth, -0.12, -0.001),
            edge(fourth, sixth, -0.01, 0.0),
            edge(fourth, seventh, -0.15, 0.003),
            edge(seventh, eighth, -0.004, 0.001),
        ),
    )


def test_the_lane_of_the_champion_is_straight_and_everything_else_hangs_off_its_parent() -> None:
    assert draw(nights(), width=100) == NIGHTS
    assert NIGHTS in MANUAL.read_text(encoding="utf-8")


def test_a_terminal_without_these_characters_gets_a_narrow_drawing_in_ascii() -> None:
    first = node(1, "FAIL", "refused", reason="worse than a unigram model")
    second = node(2, "PASS", "published")
    third = node(3, "PASS", "published", is_champion=True)
    fourth = node(4, "AMBIGUOUS", "awaiting", reason="no gain was shown")
    edges = (
        edge(None, first, 0.2, None),
        edge(None, second, -2.5, None),
        edge(second, third, -0.15, 0.003),
        edge(third, fourth, -0.004, 0.001),
    )
    chain = Chain(lineage="news", nodes=(first, second, third, fourth), edges=edges)
    drawing = draw(chain, width=60, marks=ASCII)
    assert drawing.isascii()
    assert drawing == FROM_NOTHING


def test_what_was_learned_after_a_rolled_back_version_lies_in_its_lane() -> None:
    first = node(1, "IMPORTED", "published", is_champion=True)
    second = node(2, "PASS", "rolled_back")
    back = event("rollback", 4, "answers rudely", to=first.version)
    refused = node(3, "FAIL", "refused")
    fourth = node(4, "PASS", "rolled_back", back)
    edges = (
        Edge(parent=first.version, version=second.version, gain=None, worst_old=None, tokens=None),
        Edge(parent=second.version, version=refused.version, gain=None, worst_old=None, tokens=7),
        Edge(parent=second.version, version=fourth.version, gain=None, worst_old=None, tokens=None),
    )
    chain = Chain(lineage="news", nodes=(first, second, refused, fourth), edges=edges)
    drawn = draw(chain, width=100).split("\n\n")[0]
    assert drawn == TWICE_BACK


def test_a_difference_that_is_not_a_number_and_a_bound_that_is_none_are_said() -> None:
    first = node(1, "IMPORTED", "published", is_champion=True)
    second = node(2, "FAIL", "refused")
    lost = Edge(
        parent=first.version,
        version=second.version,
        gain=replace(delta("new data", 0.0, 0.0), difference=None, upper_bound=None),
        worst_old=replace(delta("prose", 0.5, 0.0), upper_bound=None),
        tokens=None,
        origin=Origin(update="0123", version=None, step=1200, mode="continue"),
    )
    drawing = draw(Chain(lineage="news", nodes=(first, second), edges=(lost,)), width=100)
    assert "new data not a number, worst old prose +0.500 (no bound)\n" in drawing
    assert "goes on from step 1,200 of update 0123, which was left\n" in drawing


@pytest.mark.parametrize("width", [24, 40, 79, 200])
def test_no_line_is_wider_than_the_terminal_in_any_script(width: int) -> None:
    chain = nights()
    told = replace(chain.nodes[3], reason="新しいデータ" * 30)
    chain = replace(chain, nodes=(*chain.nodes[:3], told, *chain.nodes[4:]))
    lines = draw(chain, width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert sum(line.count("新") for line in lines) == 30


def test_a_reason_moves_no_cursor_and_breaks_no_lane() -> None:
    chain = nights()
    told = replace(chain.nodes[2], reason="worse\n\x1b[2Jthan before")
    chain = replace(chain, nodes=(*chain.nodes[:2], told, *chain.nodes[3:]))
    drawing = draw(chain, width=100, marks=UNICODE)
    assert "\x1b" not in drawing
    assert "│ │   worse  [2Jthan before" in drawing


def test_a_thousand_nights_are_drawn() -> None:
    base = node(1, "IMPORTED", "published")
    nodes = [
        replace(base, version=f"{n}-aa", head=n, is_champion=n == 1500) for n in range(1, 1501)
    ]
    edges = tuple(
        Edge(parent=a.version, version=b.version, gain=None, worst_old=None, tokens=None)
        for a, b in pairwise(nodes)
    )
    drawing = draw(Chain(lineage="news", nodes=tuple(nodes), edges=edges), width=100)
    assert drawing.splitlines()[0].startswith("◉ 1500-aa")
    assert drawing.count("\n◆ ") == 1499


def only_ascii() -> None:
    """Standard output as under a locale without these characters."""
    sys.stdout.reconfigure(encoding="ascii")  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_draws_the_first_version_with_what_the_terminal_has(
    lineage: TinyLineage, perennial: Commands
) -> None:
    ended = perennial.run("history", "--graph", lineage.file)
    assert ended.code == 0, ended.err
    first = ended.out.splitlines()[0]
    assert first.startswith("◉ 1-")
    assert first.endswith("PASS, published, champion now")
    assert "against unigram (95% at most -" in ended.out
    narrow = perennial.run("history", "--graph", lineage.file, prepare=only_ascii)
    assert narrow.out == ended.out.replace("◉", "@")


def test_the_drawing_as_json_has_its_nodes_and_edges_and_the_history_stays_what_it_was(
    lineage: TinyLineage, perennial: Commands
) -> None:
    drawn = perennial.run("history", "--graph", "--json", lineage.file).json
    (only,), (edge_to_it,) = drawn["nodes"], drawn["edges"]
    assert only["is_champion"]
    assert edge_to_it["version"] == only["version"]
    assert edge_to_it["parent"] is None
    assert edge_to_it["gain"]["difference"] < edge_to_it["gain"]["upper_bound"] < 0
    assert edge_to_it["tokens"] > 0
    heads = json.loads(perennial.run("history", "--json", lineage.file).out)
    assert heads[-1]["action"] == "update"
    assert heads[-1]["champion"] == only["version"]


def test_a_lineage_without_versions_says_so(lineage: TinyLineage, empty_home: Commands) -> None:
    said = empty_home.run("history", "--graph", lineage.file)
    assert (said.code, said.out) == (
        0,
        "lineage tiny has no version yet: run 'perennial update'\n",
    )
    drawn = empty_home.run("history", "--graph", "--json", lineage.file).json
    assert drawn == {"lineage": "tiny", "nodes": [], "edges": []}
