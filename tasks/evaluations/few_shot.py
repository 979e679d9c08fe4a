"""The examples that stand before a question, drawn as lm-evaluation-harness draws them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.evaluations.definition import Definition
from tasks.evaluations.rows import Row
from tasks.evaluations.templates import Templates

_SEED = 1234
"""The harness's default for the draw of examples."""
_OWN = ("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "fewshot_delimiter")
"""What examples may have otherwise than questions."""


@dataclass(slots=True)
class Examples:
    """Draws the examples for one question after the other, in the order of the questions."""

    templates: Templates
    rows: Sequence[Row]
    count: int
    """Examples before each question."""
    is_first_n: bool
    """The same first ones before each, instead of a draw."""
    is_of_questions: bool
    """Drawn from the questions themselves, so that a question's own document has to go."""
    generator: random.Random

    def before(self, row: Row) -> str:
        """The examples that stand before the question of ``row``."""
        if not self.count:
            return ""
        is_other = [other.values != row.values for other in self.rows]
        others = [other for other, is_wanted in zip(self.rows, is_other, strict=True) if is_wanted]
        if self.is_first_n:
            drawn = others if self.is_of_questions else self.rows
        elif self.is_of_questions:
            places = self.generator.sample(range(len(self.rows)), self.count + 1)
            drawn = [self.rows[place] for place in places if is_other[place]]
            if len(drawn) < self.count:
                # It stood there more than once.
                drawn = self.generator.sample(others, self.count)
        else:
            drawn = self.generator.sample(self.rows, self.count)
        return "".join(map(self._example, drawn[: self.count]))

    def _example(self, row: Row) -> str:
        text, target = self.templates.text(row), self.templates.target(row)
        if isinstance(text, int):
            text = self.templates.choices(row)[text]
        if target == "":
            return text
        if isinstance(target, list):
            answer = str(target[0])
        elif isinstance(target, int) and self.templates.definition.get("doc_to_choice") is not None:
            answer = self.templates.choices(row)[target]
        else:
            answer = str(target)
        definition = self.templates.definition
        return (
            text + definition.get("target_delimiter") + answer + definition.get("fewshot_delimiter")
        )


def open_examples(
    definition: Definition, templates: Templates, splits: dict[str, list[Row]]
) -> Examples:
    """What draws the examples of a definition.

    Raises:
        ValueError: There are fewer documents than are asked for, or the way of drawing is unknown.
    """
    count = definition.get("num_fewshot")
    if not isinstance(count, int) or not 0 <= count <= 100:
        raise definition.refuse("num_fewshot", f"found {count!r}", "expected 0 to 100")
    config = definition.get("fewshot_config") or {}
    unknown = sorted(set(config) - {"sampler", "samples", "split", *_OWN})
    if unknown or config.get("sampler", "default") not in ("default", "first_n"):
        raise definition.refuse(
            "fewshot_config",
            f"found {unknown or config['sampler']!r}",
            f"expected sampler (default or first_n), samples, split, {', '.join(_OWN)}",
        )
    rows = _rows(definition, splits, config) if count else []
    split = config.get("split") or definition.get("fewshot_split")
    of_questions = split == definition.get("test_split")
    if count + of_questions > len(rows) and count:
        raise definition.refuse(
            "num_fewshot",
            f"{count} examples are asked for, {len(rows)} documents are there to draw from",
            "lower it, or name a larger fewshot_split",
        )
    own = {key: config[key] for key in _OWN if config.get(key) is not None}
    return Examples(
        templates=replace(
            templates, definition=replace(definition, values={**definition.values, **own})
        ),
        rows=rows,
        count=count,
        is_first_n=config.get("sampler") == "first_n",
        is_of_questions=of_questions,
        generator=random.Random(_SEED),
    )


def _rows(
    definition: Definition, splits: dict[str, list[Row]], config: dict[str, object]
) -> list[Row]:
    """The documents to draw from: given ones, or the first split there is."""
    named = config.get("split") or definition.get("fewshot_split")
    samples = config.get("samples")
    if isinstance(samples, list) and not named:
        return [Row(definition.path, number, values) for number, values in enumerate(samples, 1)]
    for key in ("training_split", "validation_split", "test_split"):
        named = named or definition.get(key)
    if named not in splits:
        raise definition.refuse(
            "fewshot_split",
            f"there is no split {named!r}",
            f"dataset_kwargs.data_files has {', '.join(sorted(splits))}",
        )
    return splits[str(named)]
