"""Fields and templates of a harness definition, applied to a document.

The rules are those of lm-evaluation-harness 0.4 (Gao et al. 2024): a text that is a field's name
stands for that field, everything else is a Jinja template over the fields.
"""

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.evaluations.definition import Definition
from tasks.evaluations.rows import Row


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


# In a sandbox: a definition is data, and may come from anywhere.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters["regex_replace"] = _regex_replace  # pyright: ignore[reportArgumentType]  any


@dataclass(frozen=True, slots=True)
class Templates:
    """What a definition makes of a document."""

    definition: Definition
    fields: Collection[str]
    """That any document of the data has; where one has not, its value is None."""

    def render(self, key: str, template: str, row: Row) -> str:
        """A template filled with a document; ``key`` is where the definition has it.

        Raises:
            ValueError: It is no template, or asks for a field that is not there.
        """
        values = {**dict.fromkeys(self.fields), **row.values}
        try:
            return _ENVIRONMENT.from_string(template).render(**values)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise self.definition.refuse(
                key,
                f"{error} in {row.path}:{row.line}, which has {', '.join(sorted(row.values))}",
                "correct the template or the line",
            ) from error

    def text(self, row: Row) -> str | int:
        """``doc_to_text``; an index where the choices are what is read."""
        found = self._field_or_template("doc_to_text", row)
        if isinstance(found, str) and found.isdigit() and self._has_choices:
            # Only where the template, and not a field, gave digits.
            return found if self._names_field("doc_to_text") else int(found)
        return "" if found is None else found

    def target(self, row: Row) -> Any:
        """``doc_to_target``: a text, an index, or a list of these."""
        found = self._field_or_template("doc_to_target", row)
        if not isinstance(found, str) or self._names_field("doc_to_target"):
            return found
        if found.isdigit() and self._has_choices:
            return int(found)
        if len(found) >= 2 and found[0] == "[" and found[-1] == "]":
            try:
                return ast.literal_eval(found)
            except (SyntaxError, ValueError):
                return found
        return found

    def choices(self, row: Row) -> list[str]:
        """``doc_to_choice``."""
        key = "doc_to_choice"
        found = self.definition.get(key)
        if isinstance(found, str):
            found = (
                row.values.get(found)
                if self._names_field(key)
                else self._literal(key, self.render(key, found, row), row)
            )
        elif isinstance(found, dict):
            found = list(found.values())
        if isinstance(found, list) and len(found) >= 2:
            return [str(choice) for choice in found]
        raise self.definition.refuse(
            key,
            f"expected a list of at least two choices, found {found!r:.60} for "
            f"{row.path}:{row.line}",
            "name a field that is a list, or write a template of a list",
        )

    @property
    def _has_choices(self) -> bool:
        return self.definition.get("doc_to_choice") is not None

    def _names_field(self, key: str) -> bool:
        return self.definition.get(key) in self.fields

    def _field_or_template(self, key: str, row: Row) -> Any:
        found = self.definition.get(key)
        if not isinstance(found, str):
            return found
        if self._names_field(key):
            return row.values.get(found)
        return self.render(key, found, row)

    def _literal(self, key: str, text: str, row: Row) -> Any:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            raise self.definition.refuse(
                key,
                f"expected a list, the template gives {text!r:.60} for {row.path}:{row.line}",
                "write a template of a list, as in {{[good, bad]}}",
            ) from error
