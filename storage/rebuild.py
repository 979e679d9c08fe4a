"""Strict, typed reading of JSON: frozen dataclasses out, or an error that names key and field.

Plain standard library: the scheduler and the bare GPU box read heads and manifests too.
"""

import json
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from storage.errors import CorruptError

_T = TypeVar("_T")


def rebuild(value: Any, key: str, cls: type[_T]) -> _T:
    """The dataclass ``cls`` from parsed JSON; ``key`` says in messages where it came from.

    Knows nested dataclasses, ``tuple``, ``list``, ``dict`` with string keys, unions, ``Literal``
    and ``Annotated``. A field that has a default may be missing, so that objects written before the
    field existed stay readable; everything else must match.

    Raises:
        CorruptError: A field is unknown, missing or of another type.
    """
    return _rebuild(value, cls, _Place(key, ""))


def parse(body: bytes, key: str) -> Any:
    """The value that a JSON text spells. Raises CorruptError when it is none."""
    try:
        return json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ValueError as error:
        raise CorruptError(
            f"{key} is not valid JSON ({error}); it was altered, restore it from a copy"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object spells one of its keys twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which object we are, for messages."""

    key: str
    path: str

    def field(self, name: str) -> "_Place":
        return _Place(self.key, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int | str) -> "_Place":
        return _Place(self.key, f"{self.path}[{index!r}]")

    def refuse(self, expected: str, value: Any) -> NoReturn:
        found = repr(value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        raise CorruptError(
            f"{self.key} cannot be read: field {self.path or '(all of it)'} should be {expected}, "
            f"found {found}; it was altered or written by another version"
        )


@lru_cache(maxsize=256)
def _fields_of(cls: type) -> dict[str, tuple[Any, bool]]:
    """Type and whether it is required, by field name."""

    def is_required(field: Field[Any]) -> bool:
        return field.default is MISSING and field.default_factory is MISSING

    hints = get_type_hints(cls, include_extras=True)
    return {field.name: (hints[field.name], is_required(field)) for field in fields(cls)}


def _rebuild(value: Any, kind: Any, place: _Place) -> Any:
    origin = get_origin(kind)
    if origin is not None:
        return _REBUILD_GENERIC[origin](value, get_args(kind), place)
    if is_dataclass(kind):
        return _rebuild_dataclass(value, kind, place)
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    # Exact types: True is an int to isinstance.
    if type(value) is not kind and not (kind is type(None) and value is None):
        place.refuse("null" if kind is type(None) else f"a {kind.__name__}", value)
    return value


def _rebuild_dataclass(value: Any, cls: Any, place: _Place) -> Any:
    if not isinstance(value, dict):
        place.refuse(f"an object with the fields of {cls.__name__}", value)
    known = _fields_of(cls)
    for name in value:
        if name not in known:
            place.field(name).refuse(f"absent, {cls.__name__} has no such field", value[name])
    for name, (_, required) in known.items():
        if required and name not in value:
            place.field(name).refuse("present", None)
    built = {
        name: _rebuild(value[name], kind, place.field(name))
        for name, (kind, _) in known.items()
        if name in value
    }
    try:
        return cls(**built)
    except ValueError as error:
        place.refuse(f"a valid {cls.__name__} ({error})", value)


def _rebuild_tuple(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    if not isinstance(value, list):
        place.refuse("a list", value)
    kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
    if len(kinds) != len(value):
        place.refuse(f"a list of {len(kinds)}", value)
    return tuple(
        _rebuild(item, kind, place.item(index))
        for index, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _rebuild_list(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    return list(_rebuild_tuple(value, (args[0], ...), place))


def _rebuild_dict(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    if not isinstance(value, dict):
        place.refuse("an object", value)
    return {name: _rebuild(item, args[1], place.item(name)) for name, item in value.items()}


def _rebuild_literal(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    if not any(value == allowed and type(value) is type(allowed) for allowed in args):
        place.refuse(f"one of {', '.join(map(str, args))}", value)
    return value


def _rebuild_union(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    if value is None and type(None) in args:
        return None
    kinds = [kind for kind in args if kind is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _rebuild(value, kind, place)
        except CorruptError:
            continue
    return _rebuild(value, kinds[-1], place)


def _rebuild_annotated(value: Any, args: tuple[Any, ...], place: _Place) -> Any:
    return _rebuild(value, args[0], place)


_REBUILD_GENERIC: dict[Any, Callable[[Any, tuple[Any, ...], _Place], Any]] = {
    Annotated: _rebuild_annotated,
    Literal: _rebuild_literal,
    Union: _rebuild_union,
    dict: _rebuild_dict,
    list: _rebuild_list,
    tuple: _rebuild_tuple,
    types.UnionType: _rebuild_union,
}
