"""The reference of a lineage's YAML, made from the classes that validate it."""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from pydantic import SecretStr, TypeAdapter

from flows.lineage import Lineage
from flows.lineage_yaml import DEFAULT_RECIPE
from infra.bounds import FORBID_UNKNOWN
from infra.settings import Settings
from training.recipes import RECIPES

_HEADER = """\
# The lineage's YAML

Made from the classes that validate it; a test keeps this page true. `perennial init NAME`
writes a commented file to start from. Relative paths are
taken from the file's own folder. Unknown keys are errors.
"""


_TELLING = ("schedule.kind", "schedule.eta_max", "schedule.warmup_fraction")
"""What is told of the default recipe in the list of recipes."""


def render_reference() -> str:
    """The page ``docs/configuration.md``."""
    schema = _schema()
    defaults = _defaults_of(Lineage)
    lines = [_HEADER, *_table("Top level", schema, defaults)]
    recipe = RECIPES[DEFAULT_RECIPE]()
    # The named recipe's, which apply where the YAML says nothing, and not the class's own.
    applied = {
        "Recipe": {**asdict(recipe), **_defaults_of(type(recipe))},
        "ScheduleConfig": asdict(recipe.schedule),
    }
    for name, definition in sorted(schema["$defs"].items()):
        shown = _with_name(definition) if name == "Recipe" else definition
        lines += _table(f"`{name}`", shown, applied.get(name, {}))
        lines += _recipes() if name == "Recipe" else []
    lines += _settings()
    return "\n".join(lines) + "\n"


def _schema() -> dict[str, Any]:
    """The JSON schema of a lineage, with the docstrings of its fields.

    Only here: pydantic parses the source of every class for them, and in CPython before 3.11.8 that
    fails at random while another thread parses something (python/cpython#106905), as a flow run's
    does.
    """
    FORBID_UNKNOWN["use_attribute_docstrings"] = True
    try:
        return TypeAdapter(Lineage).json_schema()
    finally:
        del FORBID_UNKNOWN["use_attribute_docstrings"]


def _with_name(recipe: dict[str, Any]) -> dict[str, Any]:
    """The schema of a recipe in the YAML, which may also name one."""
    name = {
        "enum": list(RECIPES),
        "default": DEFAULT_RECIPE,
        "description": "The named recipe, below, whose values hold where this one sets no other.",
    }
    return {**recipe, "properties": {"name": name, **recipe["properties"]}}


def _recipes() -> list[str]:
    """The named recipes: what each sets otherwise than the default one."""
    lines = [
        "### Named recipes",
        "",
        f"Values of `{DEFAULT_RECIPE}` are the defaults shown in the tables of this page.",
        "",
        "| name | sets | meaning |",
        "| --- | --- | --- |",
    ]
    default = _flat(asdict(RECIPES[DEFAULT_RECIPE]()))
    for name, make in RECIPES.items():
        values = _flat(asdict(make()))
        differing = [key for key in values if values[key] != default[key]]
        shown = ", ".join(f"`{key}: {values[key]}`" for key in differing)
        sets = shown or "the defaults: " + ", ".join(f"`{key}: {values[key]}`" for key in _TELLING)
        meaning = " ".join((make.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{name}` | {sets} | {meaning} |")
    return [*lines, ""]


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{where}{key}.") if isinstance(value, dict) else {where + key: value}
        flat |= inner
    return flat


def _settings() -> list[str]:
    """Where things run: the environment variables, which are no part of a lineage."""
    lines = [
        "## Environment",
        "",
        "Where Perennial runs. None of these changes the weights that come out; credentials of an",
        "object store are found as boto3 finds them (`AWS_*`, profiles, the instance).",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if isinstance(default, SecretStr) or default == "" else f"`{default}`"
        lines.append(f"| `PERENNIAL_{name.upper()}` | {shown} | {field.description} |")
    return [*lines, ""]


def _table(title: str, schema: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    required = set(schema.get("required", ()))
    lines = [f"## {title}", ""]
    if schema.get("description"):
        lines += [schema["description"].split("\n\n")[0].replace("\n", " "), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in schema["properties"].items():
        default = defaults.get(name, field.get("default"))
        shown = "required" if name in required else _code(default)
        meaning = (field.get("description") or "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{name}` | {_type_of(field)} | {shown} | {meaning}{_limits(field)} |")
    return [*lines, ""]


def _type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"`{field['$ref'].rsplit('/', 1)[-1]}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type_of(option) for option in field["anyOf"])
    if field.get("type") == "array":
        items = field.get("items") or next(iter(field.get("prefixItems", ())), {})
        return f"list of {_type_of(items)}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"mapping of names to {_type_of(field['additionalProperties'])}"
    kind: str = field.get("type", "any")
    return "nothing" if kind == "null" else kind


def _limits(field: dict[str, Any]) -> str:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    parts = [
        f"{word} {option[keyword]:g}"
        for option in (field, *field.get("anyOf", ()))
        for keyword, word in words.items()
        if keyword in option
    ]
    text = " and ".join(parts)
    unit = f" {field['unit']}" if field.get("unit") else ""
    return f" ({text}{unit})" if text or unit else ""


def _defaults_of(cls: type) -> dict[str, Any]:
    return {item.name: "see below" for item in fields(cls) if _is_section(item)}


def _is_section(item: Field[Any]) -> bool:
    return item.default_factory is not MISSING and is_dataclass(item.default_factory)


def _code(value: Any) -> str:
    return value if value == "see below" else ("nothing" if value is None else f"`{value}`")


if __name__ == "__main__":
    sys.stdout.write(render_reference())
