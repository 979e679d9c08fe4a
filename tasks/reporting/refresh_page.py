"""The page of a refresh: what was read, what became of it and why, with examples. One HTML file.

Nothing on it comes from outside: no script, no font, no image. Names, ids and excerpts are other
people's text: the template engine escapes them, and characters that are not seen, or that turn the
direction of what follows, are spelt out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from storage.snapshots import SnapshotManifest
from tasks.documents import printable
from tasks.drop_reasons import mostly_dropped
from tasks.reporting.card import CardLine
from tasks.reporting.refresh_charts import bar_chart, column_chart
from tasks.reporting.refresh_evidence import Excerpt, Leaked, Rejected
from tasks.reporting.refresh_facts import DocumentFacts
from tasks.reporting.refresh_funnel import (
    FunnelRow,
    ReasonRow,
    date_columns,
    funnel_of,
    funnels_by,
    language_bars,
    length_columns,
    licence_bars,
    reasons_of,
    stage_bars,
)
from tasks.reporting.templates import data, environment

_TEMPLATE = "refresh.html.jinja"
_NAME_LETTERS, _EXCERPT_LETTERS = 300, 300
_ESCAPE_LETTERS = 10
"""Of the longest spelling of one character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPage:
    """Everything on the page."""

    manifest: SnapshotManifest
    facts: DocumentFacts
    rejects: Mapping[str, Rejected]
    """By reason."""
    leaks: Mapping[str, Leaked]
    """By task."""
    excerpts: Mapping[str, Sequence[Excerpt]]
    """By reason; of a snapshot that keeps none, empty."""
    files_read: int
    source_bytes: int | None
    """Of these files; None when that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A document as the page names it."""

    place: str
    domain: str
    document: str
    text: str | None
    """The beginning of its text; None where it is not kept."""


def render(page: RefreshPage) -> str:
    """The page as HTML. Pure: the same input gives the same bytes."""
    groups = page.facts.groups
    whole = funnel_of("all", groups)
    reasons = reasons_of(groups)
    rejected = sum(page.manifest.lines_rejected.values())
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            page=page,
            manifest=page.manifest,
            data=data,
            name=_name,
            place=_place,
            stages=whole.stages,
            whole=whole,
            card=_card(page, whole, rejected),
            warnings=_warnings(page),
            funnel=bar_chart("What each stage left", stage_bars(whole, rejected)),
            tables=(
                ("By domain", "Domain", funnels_by(groups, lambda group: group.domain)),
                ("By source", "Source", funnels_by(groups, lambda group: group.source)),
            ),
            reasons=reasons,
            examples=_examples(page, reasons),
            languages=bar_chart("Documents by language", language_bars(page.facts.languages)),
            licences=bar_chart("Documents by licence", licence_bars(groups)),
            lengths=_lengths(page.facts),
            dates=_dates(page.facts),
        )
    )


def _card(page: RefreshPage, whole: FunnelRow, rejected: int) -> list[CardLine]:
    manifest = page.manifest
    files = "1 file" if page.files_read == 1 else f"{page.files_read:,} files"
    size = f", {page.source_bytes / 1e6:,.1f} MB" if page.source_bytes is not None else ""
    dropped = sum(whole.dropped.values())
    stored = sum(file.size for file in manifest.files)
    domains = [piece.domain for piece in manifest.domains]
    held_tokens = sum(piece.holdout_tokens for piece in manifest.domains)
    lines = [
        ("Read", f"{files}{size}: {whole.read:,} documents"),
        ("Rejected", f"{rejected:,} lines, rows or files that gave no document"),
        ("Dropped", f"{dropped:,} documents ({_share(dropped, whole.read)})"),
        ("To train on", f"{whole.train:,} documents, {whole.train_tokens:,} tokens"),
        ("Held out", f"{whole.held_out:,} documents, {held_tokens:,} tokens"),
        ("Domains", ", ".join(domains)),
        ("Personal data", _personal(page.facts)),
        ("Task items", _checked(manifest)),
        ("Snapshot", f"{manifest.id}, {stored / 1e6:,.1f} MB in {len(manifest.files):,} files"),
    ]
    card = [CardLine(title=title, texts=(text,)) for title, text in lines]
    perplexity = page.facts.perplexity
    if perplexity is not None:
        card.append(CardLine(title="Perplexity", texts=perplexity.told()))
    return card


def _personal(facts: DocumentFacts) -> str:
    if not facts.personal:
        return "was not looked for"
    found = [f"{kind} {count:,}" for kind, count in facts.personal.items() if count]
    return f"found {', '.join(found)}" if found else "none found"


def _checked(manifest: SnapshotManifest) -> str:
    if not manifest.checked_tasks:
        return "none were looked for"
    tasks = [task.task for task in manifest.checked_tasks]
    suite = f", as of suite {manifest.checked_suite}" if manifest.checked_suite else ""
    return f"none of {', '.join(tasks)} is in the text{suite}"


def _warnings(page: RefreshPage) -> list[str]:
    """What a person should know."""
    mostly = mostly_dropped(page.facts.by_domain)
    told = list(mostly.values())
    told += [
        f"domain {row.name}: nothing of {row.read:,} documents is left to train on"
        for row in funnels_by(page.facts.groups, lambda group: group.domain)
        if not row.train and row.name not in mostly
    ]
    told += [
        f"domain {piece.domain}: no document is held out, so no verdict can rest on it"
        for piece in page.manifest.domains
        if not piece.holdout_documents
    ]
    return told


def _examples(
    page: RefreshPage, reasons: Sequence[ReasonRow]
) -> list[tuple[str, list[tuple[ReasonRow, list[Shown]]]]]:
    """By stage and reason the first few documents, with the beginnings of those kept as texts."""
    return [
        (stage, [(row, _shown(page, row.reason)) for row in rows])
        for stage, rows in groupby(reasons, lambda row: row.stage)
    ]


def _shown(page: RefreshPage, reason: str) -> list[Shown]:
    found = [(excerpt.place, excerpt.text) for excerpt in page.excerpts.get(reason, ())]
    pairs = found or [(place, None) for place in page.facts.places.get(reason, ())]
    return [
        Shown(
            place=_place(place.uri, place.position),
            domain=place.domain,
            document=_name(place.document),
            text=None if text is None else _lines(text),
        )
        for place, text in pairs
    ]


def _lengths(facts: DocumentFacts) -> list[tuple[str, Markup]]:
    """Titles and charts of the lengths, those there are."""
    charts: list[tuple[str, Markup]] = []
    for unit, bins in (("tokens", facts.tokens), ("characters", facts.characters)):
        labels, series = length_columns(bins)
        axis = f"{unit}, from this many to the next (1k = 1,024)"
        title = f"Length in {unit}: share of the {' and of the '.join(s.name for s in series)}"
        chart = column_chart(title, labels, series, axis=axis, form=".0%")
        charts += [(f"{title} documents", chart)] if chart else []
    return charts


def _dates(facts: DocumentFacts) -> tuple[str, Markup]:
    unit, labels, series = date_columns(facts.dates)
    if not labels:
        return "", Markup("")
    title = f"Kept documents by {unit}"
    return title, column_chart(title, labels, [series], axis=unit, form=",.0f")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0.0%"


def _place(uri: str, position: int) -> str:
    """File and line, or the file alone."""
    return _name(uri) + (f":{position}" if position else "")


def _name(text: str) -> str:
    return printable(text, limit=_NAME_LETTERS)


def _lines(text: str) -> str:
    """An excerpt with its line ends, and with all else that is not seen spelt out."""
    whole = len(text) < _EXCERPT_LETTERS
    lines = text[:_EXCERPT_LETTERS].split("\n")
    shown = "\n".join(printable(one, limit=_ESCAPE_LETTERS * _EXCERPT_LETTERS) for one in lines)
    return shown if whole else shown + "\N{HORIZONTAL ELLIPSIS}"
