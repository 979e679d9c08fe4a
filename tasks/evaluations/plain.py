"""Our own simple task files: a JSON object a line, whose fields say what is asked."""

from collections.abc import Callable
from typing import Any

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.frozen import FrozenItem, item_id
from tasks.evaluations.rows import Row, local_path, read_rows
from training.items.item import Item


def read_plain(task: TaskConfig) -> list[FrozenItem]:
    """The items of a task of one of our own kinds, in the order of its file.

    Raises:
        ValueError: Names file, line and field of what cannot be used, and the remedy.
    """
    make = _MAKERS[task.kind]
    return [_item(row, task, make) for row in read_rows(local_path(task.uri))]


def _item(row: Row, task: TaskConfig, make: Callable[[Row, dict[str, Any]], Item]) -> FrozenItem:
    named = row.values.get("id")
    name = item_id(row.values) if named is None else str(named)
    return FrozenItem(item=make(row, {"id": name, "cluster": cluster_of(row.values, task, name)}))


def cluster_of(values: dict[str, Any], task: TaskConfig, name: str) -> str:
    """The cluster that a row names, or the item itself."""
    named = values.get(task.cluster_field)
    return name if named is None else str(named)


def text_of(row: Row, field: str, *, may_be_empty: bool = False) -> str:
    """A field that is a text.

    Raises:
        ValueError: It is missing, empty or something else.
    """
    value = row.values.get(field)
    if isinstance(value, str) and (value or may_be_empty):
        return value
    found = "missing" if field not in row.values else f"{value!r:.60}"
    raise row.refuse(field, f"expected a text, found {found}", "correct the line, or leave it out")


def _texts(row: Row, field: str, least: int) -> tuple[str, ...]:
    value = row.values.get(field)
    if (
        isinstance(value, list)
        and len(value) >= least  # pyright: ignore[reportUnknownArgumentType]
        and all(isinstance(text, str) and text for text in value)  # pyright: ignore[reportUnknownVariableType]
    ):
        return tuple(str(text) for text in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise row.refuse(
        field,
        f"expected a list of at least {least} texts, none empty, found {value!r:.60}",
        "correct the line, or leave it out",
    )


def _multiple_choice(row: Row, names: dict[str, Any]) -> Item:
    choices = _texts(row, "choices", 2)
    gold = row.values.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise row.refuse(
            "gold",
            f"expected an index from 0 to {len(choices) - 1}, found {gold!r}",
            "write which of the choices is right",
        )
    query = text_of(row, "query").rstrip(" ")
    # A context that ends with white space of its own brings the space before the answer itself.
    delimiter = "" if query[-1:].isspace() else " "
    return Item(
        **names,
        kind="multiple_choice",
        context=query,
        choices=choices,
        gold=gold,
        delimiter=delimiter,
    )


def _cloze(row: Row, names: dict[str, Any]) -> Item:
    context = text_of(row, "context").rstrip(" ")
    continuation = text_of(row, "continuation")
    starts = context[-1:].isspace() or continuation[0].isspace()
    return Item(
        **names,
        kind="cloze",
        context=context,
        choices=(continuation,),
        delimiter="" if starts else " ",
    )


def _minimal_pair(row: Row, names: dict[str, Any]) -> Item:
    choices = (text_of(row, "sentence_good"), text_of(row, "sentence_bad"))
    if choices[0] == choices[1]:
        raise row.refuse(
            "sentence_bad", "is the same as sentence_good", "leave the line out: nothing differs"
        )
    return Item(**names, kind="minimal_pair", choices=choices)


def _perplexity(row: Row, names: dict[str, Any]) -> Item:
    return Item(**names, kind="perplexity", choices=(text_of(row, "text"),))


def _generation(row: Row, names: dict[str, Any]) -> Item:
    answer = row.values.get("answer")
    answers = _texts(row, "answer", 1) if isinstance(answer, list) else (text_of(row, "answer"),)
    return Item(**names, kind="generation", context=text_of(row, "prompt"), choices=answers)


_MAKERS: dict[str, Callable[[Row, dict[str, Any]], Item]] = {
    "multiple_choice": _multiple_choice,
    "cloze": _cloze,
    "minimal_pairs": _minimal_pair,
    "perplexity": _perplexity,
    "generation": _generation,
}
