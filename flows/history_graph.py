"""Draws a chain of versions with lines of text, newest first, as ``git log --graph`` does.

The lane on the left leads from the champion of today down to the first version. What did not stay
hangs off the version that it was compared with: refused, rejected, rolled back, waiting.
"""

from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.text import Text

from flows.chain import Chain, Delta, Edge, Event, Node
from infra.progress import counted

_EVENTS = {"promote": "promoted", "reject": "rejected", "rollback": "rolled back"}
_DECISIONS = {
    "published": "published",
    "refused": "refused",
    "awaiting": "waits for a person",
    "rejected": "rejected",
    "rolled_back": "rolled back",
    "superseded": "superseded",
}
_MODES = {
    "branch": "cool-down from",
    "continue": "goes on from",
    "new_phase": "a new schedule from",
    "weights_only": "fresh moments and a new schedule from",
}
_LEGEND = (
    "Times are UTC. Differences to the version that each was compared with, in nats per token: "
    "below 0 is better; in brackets how sure they are of at most how much. Then the tokens trained."
)
_NARROWEST = 8
"""Columns of text beside the lanes, however narrow the terminal is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What the lines are drawn with."""

    lane: str
    join: str
    """A dead end meets a lane that goes on upwards."""
    bend: str
    """A dead end meets a lane that ends here."""
    champion: str
    published: str
    imported: str
    waiting: str
    dead: str
    promote: str
    reject: str
    rollback: str


UNICODE = Marks(
    lane="│",
    join="├─╯",
    bend="╭─╯",
    champion="◉",
    published="●",
    imported="◆",
    waiting="○",
    dead="✗",
    promote="↑",
    reject="✗",
    rollback="↓",
)
ASCII = Marks(
    lane="|",
    join="|/",
    bend=" /",
    champion="@",
    published="*",
    imported="#",
    waiting="o",
    dead="x",
    promote="^",
    reject="x",
    rollback="v",
)


def draw(chain: Chain, *, width: int, marks: Marks = UNICODE) -> str:
    """The drawing, without a line break at its end; "" for a lineage without versions.

    Args:
        chain: What is drawn.
        width: Columns of the longest line, at most; text has 8 even where the lanes leave less.
        marks: ``ASCII`` where the terminal has no other characters.
    """
    if not chain.nodes:
        return ""
    drawing = _Drawing(chain, width, marks)
    lines = [line for root in drawing.roots() for line in drawing.lane_from(root, "")]
    return "\n".join([*lines, "", *_wrapped(_LEGEND, width)])


class _Drawing:
    def __init__(self, chain: Chain, width: int, marks: Marks) -> None:
        self._width = width
        self._marks = marks
        self._nodes = {node.version: node for node in chain.nodes}
        self._edges = {edge.version: edge for edge in chain.edges}
        self._children: dict[str | None, list[Node]] = {}
        for node in chain.nodes:
            self._children.setdefault(self._parent(node), []).append(node)
        self._kept = self._line_of_champion()

    def roots(self) -> list[Node]:
        """Versions that were compared with none, newest first."""
        return sorted(self._children.get(None, []), key=lambda node: -node.head)

    def lane_from(self, bottom: Node, left: str) -> list[str]:
        """The lane that begins with ``bottom``, its top first, right of the lanes ``left``."""
        path = [bottom]
        while (after := self._successor(path[-1])) is not None:
            path.append(after)
        lines: list[str] = []
        above = None
        for node in reversed(path):
            beside = [child for child in self._children.get(node.version, []) if child is not above]
            for item in sorted([*beside, *node.events], key=lambda item: -item.head):
                if isinstance(item, Event):
                    lines += self._event(item, left)
                    continue
                is_open = bool(lines)
                lines += self.lane_from(item, left + (self._marks.lane if is_open else " ") + " ")
                lines.append(left + (self._marks.join if is_open else self._marks.bend))
            lines += self._node(node, left)
            above = node
        return lines

    def _parent(self, node: Node) -> str | None:
        edge = self._edges.get(node.version)
        return edge.parent if edge and edge.parent in self._nodes else None

    def _line_of_champion(self) -> set[str]:
        kept: set[str] = set()
        at = next((node for node in self._nodes.values() if node.is_champion), None)
        while at is not None:
            kept.add(at.version)
            parent = self._parent(at)
            at = self._nodes[parent] if parent else None
        return kept

    def _successor(self, node: Node) -> Node | None:
        """The version above ``node`` in its own lane."""
        children = self._children.get(node.version, [])
        if node.version in self._kept:
            return next((child for child in children if child.version in self._kept), None)
        was_used = [c for c in children if c.decision in ("published", "rolled_back")]
        return max(was_used, key=lambda child: child.head, default=None)

    def _node(self, node: Node, left: str) -> list[str]:
        edge = self._edges.get(node.version)
        facts = [] if edge is None else _facts(node, edge)
        below = self._marks.lane if self._parent(node) else " "
        lines = self._entry(_mark(self._marks, node), below, _headline(node), left)
        for fact in facts:
            lines += self._entry(below, below, f"  {fact}", left)
        return lines

    def _event(self, event: Event, left: str) -> list[str]:
        to = f" to {event.to}" if event.to else ""
        done = f"{_EVENTS[event.action]}{to} by {event.by}"
        text = f"{_minute(event.at)}  {done}: {event.reason}"
        mark = getattr(self._marks, event.action)
        return self._entry(mark, self._marks.lane, text, left)

    def _entry(self, mark: str, below: str, text: str, left: str) -> list[str]:
        """``text`` beside ``mark``, wrapped; the lane goes on beside what is wrapped."""
        indent = " " * (len(text) - len(text.lstrip()))
        room = max(self._width - len(left) - 2 - len(indent), _NARROWEST)
        lines = [
            f"{left}{below if index else mark} {indent}{line}"
            for index, line in enumerate(_wrapped(text.lstrip(), room))
        ]
        return [line.rstrip() for line in lines]


def _headline(node: Node) -> str:
    words = [node.verdict]
    if node.verdict == "IMPORTED":
        words = [f"IMPORTED by {node.by}"]
    elif node.decision == "published" and any(e.action == "promote" for e in node.events):
        words.append("promoted")
    else:
        words.append(_DECISIONS[node.decision])
    if node.is_champion:
        words.append("champion now")
    return f"{node.version}  {_minute(node.at)}  {', '.join(words)}"


def _facts(node: Node, edge: Edge) -> list[str]:
    """What stands below a version, beside the line to the one that it came from."""
    deltas: list[str] = []
    if edge.gain is not None:
        deltas.append(_delta(edge.gain.domain, edge.gain))
    if edge.worst_old is not None:
        deltas.append(_delta(f"worst old {edge.worst_old.domain}", edge.worst_old))
    if edge.tokens is not None:
        deltas.append(f"{counted(edge.tokens)} tokens")
    facts = [", ".join(deltas)] if deltas else []
    if edge.origin is not None:
        begun = edge.origin.version or f"update {edge.origin.update}, which was left"
        facts.append(f"{_MODES[edge.origin.mode]} step {edge.origin.step:,} of {begun}")
    if node.verdict != "PASS" and node.reason:
        facts.append(node.reason)
    return facts


def _delta(name: str, delta: Delta) -> str:
    against = " against unigram" if delta.against == "unigram" else ""
    if delta.difference is None:
        return f"{name}{against} not a number"
    bound = (
        "no bound"
        if delta.upper_bound is None
        else f"{delta.confidence:.0%} at most {delta.upper_bound:+.3f}"
    )
    return f"{name} {delta.difference:+.3f}{against} ({bound})"


def _mark(marks: Marks, node: Node) -> str:
    if node.is_champion:
        return marks.champion
    if node.verdict == "IMPORTED":
        return marks.imported
    if node.decision == "published":
        return marks.published
    return marks.waiting if node.decision == "awaiting" else marks.dead


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of ``width`` columns at most. Whoever wrote ``text`` moves no cursor."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    # By columns, of which a letter of an eastern script takes two.
    wrapped = Text(plain).wrap(Console(file=StringIO(), width=width), width)
    return [line.plain.rstrip() for line in wrapped]
