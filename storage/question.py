"""Where a person is asked about a version: a hint for those who do not ask Prefect themselves."""

from dataclasses import dataclass

from storage.errors import NotFoundError
from storage.layout import Layout
from storage.manifest import load, readable_json
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The run that asks, in the orchestrator's pages. It may be gone from there."""

    run: str
    """Its id."""
    link: str
    """Its page; empty where the pages have no address."""


def read_question(store: ObjectStore, layout: Layout, update: str) -> Question | None:
    """The question about the version of an update; None when nobody was asked."""
    try:
        return load(store, layout.question(update), Question)
    except NotFoundError:
        return None


def write_question(store: ObjectStore, layout: Layout, update: str, question: Question) -> None:
    """Remember where a person is asked, in place of what was remembered. Safe to repeat."""
    if read_question(store, layout, update) != question:
        store.put(layout.question(update), readable_json(question))
