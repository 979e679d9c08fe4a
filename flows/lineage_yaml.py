"""Read a lineage's YAML: all problems at once, each with its place and what is allowed there."""

import difflib
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from flows.lineage import Lineage
from tasks.curation.scorer import TEXTS
from tasks.near_duplicates.config import PRESETS
from training.config import Recipe
from training.recipes import RECIPES

_EXPECTED = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dataclass_type": "must be a mapping",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "missing": "is missing",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
}
"""What pydantic's kinds of errors are called here."""


class LineageError(Exception):
    """The YAML cannot be used; the message lists every problem, with what is allowed."""


def load_lineage(path: Path) -> Lineage:
    """Read and validate a lineage's YAML.

    Relative ``uri`` and ``directory`` values are taken from the file's own folder.

    Raises:
        LineageError: Unreadable, not YAML, or invalid; all problems at once.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LineageError(
            f"no lineage file at {path}: 'perennial init NAME' writes one to start from"
        ) from None
    except IsADirectoryError:
        raise LineageError(
            f"{path} is a directory: name the lineage's YAML file, as in {path / 'lineage.yaml'}"
        ) from None
    except OSError as error:
        raise LineageError(
            f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise LineageError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else _kind_of(raw)
        raise LineageError(
            f"{path}: expected a mapping with the keys {', '.join(_keys_of(Lineage))}, "
            f"found {found}"
        )
    return parse_lineage(raw, origin=path)


def parse_lineage(raw: dict[str, Any], *, origin: Path) -> Lineage:
    """Validate a lineage given as plain values.

    ``origin`` is named in errors and anchors relative paths.
    """
    problems = _unknown_keys(raw, Lineage, "") + _wrong_shapes(raw) + _empty_rules(raw)
    if not problems:
        try:
            return TypeAdapter(Lineage).validate_python(_prepared(raw, origin))
        except ValidationError as error:
            problems = [_sentence(item) for item in error.errors()]
        except LineageError as error:
            problems = [str(error)]
    raise LineageError("\n".join(f"{origin}: {problem}" for problem in problems))


def _prepared(raw: dict[str, Any], origin: Path) -> dict[str, Any]:
    """Fill the named recipe in and anchor relative paths at the file's folder."""
    prepared = dict(raw)
    prepared["recipe"] = _recipe_of(raw.get("recipe") or {})
    folder = origin.parent.resolve()
    prepared["near_duplicates"] = _preset_of(raw.get("near_duplicates"))
    base = dict(raw.get("base") or {})
    if isinstance(base.get("directory"), str):
        base["directory"] = str(folder / Path(base["directory"]).expanduser())
    if base.get("reference"):
        base["reference"] = [_anchored(source, folder) for source in base["reference"]]
    prepared["base"] = base
    prepared["sources"] = [_anchored(source, folder) for source in raw.get("sources") or []]
    prepared["tasks"] = [_anchored(task, folder) for task in raw.get("tasks") or []]
    if against := (raw.get("decontaminate") or {}).get("against"):
        anchored = [_anchored(task, folder) for task in against]
        prepared["decontaminate"] = {**raw["decontaminate"], "against": anchored}
    if domains := (raw.get("curate") or {}).get("domains"):
        rules = {name: _anchored_rules(of_domain, folder) for name, of_domain in domains.items()}
        prepared["curate"] = {**raw["curate"], "domains": rules}
    return prepared


def _wrong_shapes(raw: dict[str, Any]) -> list[str]:
    """What must be a mapping or a list before relative paths and recipes can be filled in."""
    base, kept_out, curate = (raw.get(key) for key in ("base", "decontaminate", "curate"))
    found = [
        ("base", base, dict),
        ("recipe", raw.get("recipe"), dict),
        ("sources", raw.get("sources"), list),
        ("tasks", raw.get("tasks"), list),
        ("decontaminate", kept_out, dict),
        ("curate", curate, dict),
        ("curate.domains", _inside(curate, "domains"), dict),
        ("base.reference", _inside(base, "reference"), list),
        ("decontaminate.against", _inside(kept_out, "against"), list),
    ]
    words = {dict: "a mapping", list: "a list"}
    return [
        f"{key}: expected {words[shape]}, found {_kind_of(value)}"
        for key, value, shape in found
        if value is not None and not isinstance(value, shape)
    ]


def _inside(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, dict) else None


def _empty_rules(raw: dict[str, Any]) -> list[str]:
    """Rule sets that are named without a value, which YAML reads as nothing at all."""
    curate = raw.get("curate")
    domains = curate.get("domains") if isinstance(curate, dict) else None
    if not isinstance(domains, dict):
        return []
    return [
        f"curate.domains.{domain}.{name}: is empty, so it would do nothing; write '{name}: {{}}' "
        "for its defaults, or leave it out"
        for domain, rules in domains.items()
        if isinstance(rules, dict)
        for name, value in rules.items()
        if value is None
    ]


def _anchored(source: Any, folder: Path) -> Any:
    uri = source.get("uri") if isinstance(source, dict) else None
    if not isinstance(uri, str) or "://" in uri:
        return source
    return {**source, "uri": str(folder / Path(uri).expanduser())}


def _anchored_rules(rules: Any, folder: Path) -> Any:
    """The rules of a domain, some sections of which name texts that they learn from."""
    if not isinstance(rules, dict):
        return rules
    anchored = dict(rules)
    for name, section in rules.items():
        if isinstance(section, dict):
            named = {
                key: _anchored({"uri": section[key]}, folder) for key in TEXTS & section.keys()
            }
            anchored[name] = section | {key: found["uri"] for key, found in named.items()}
    return anchored


DEFAULT_RECIPE = "rewarm-cosine"
"""The recipe of a lineage that names none."""


def _recipe_of(raw: dict[str, Any]) -> dict[str, Any]:
    overrides = dict(raw)
    name = overrides.pop("name", DEFAULT_RECIPE)
    if not isinstance(name, str) or name not in RECIPES:
        raise LineageError(
            f"recipe.name: {name!r} is not a recipe; known are {', '.join(RECIPES)}"
            f"{_nearest(str(name), RECIPES)}"
        )
    return _merged(asdict(RECIPES[name]()), overrides)


def _preset_of(raw: Any) -> Any:
    """The values of a preset that is named instead of given."""
    if not isinstance(raw, str):
        return raw
    if raw not in PRESETS:
        raise LineageError(
            f"near_duplicates: {raw!r} is not a preset; known are {', '.join(PRESETS)}, or give a "
            f"mapping{_nearest(raw, PRESETS)}"
        )
    return PRESETS[raw]


def _merged(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        inner = merged.get(key)
        is_nested = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if is_nested else value  # pyright: ignore[reportArgumentType]
    return merged


def _unknown_keys(raw: Any, cls: type, where: str) -> list[str]:
    """Every key that ``cls`` does not have, with the nearest one that it has."""
    if not isinstance(raw, dict):
        return []
    hints = get_type_hints(cls)
    problems: list[str] = []
    for key, value in raw.items():
        path = f"{where}{key}"
        known = _keys_of(cls)
        if cls is Recipe and key == "name":
            continue
        if key not in known:
            problems.append(
                f"{path}: unknown key; allowed here are {', '.join(known)}"
                f"{_nearest(str(key), known)}"
            )
            continue
        inner = _dataclass_in(hints[key])
        if inner is None:
            continue
        for suffix, item in _items_of(value, hints[key]):
            problems += _unknown_keys(item, inner, f"{path}{suffix}.")
    return problems


def _items_of(value: Any, hint: Any) -> list[tuple[str, Any]]:
    """The values below a key that have keys of their own, each with what its path adds."""
    if isinstance(value, list):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if get_origin(hint) is dict and isinstance(value, dict):
        return [(f".{name}", item) for name, item in value.items()]
    return [("", value)]


def _dataclass_in(hint: Any) -> type | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((found for arg in get_args(hint) if (found := _dataclass_in(arg))), None)


def _keys_of(cls: type) -> list[str]:
    """The keys that the YAML may have where ``cls`` is expected."""
    named = ["name"] if cls is Recipe else []
    return [*named, *(item.name for item in fields(cls))]


def _kind_of(value: Any) -> str:
    """What a YAML value is called by who wrote it."""
    words = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false"}
    return words.get(type(value), "a number" if isinstance(value, int | float) else repr(value))


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sentence(item: Any) -> str:
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]
    ).lstrip(".")
    own: str = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = _EXPECTED.get(item["type"], own)
    found = item["input"]
    if isinstance(found, (str, int, float, bool)) and str(found) not in message:
        message += f", got {found!r}"
    told = f"{message[0].lower()}{message[1:]}"
    return f"{path}: {told}" if path else told
