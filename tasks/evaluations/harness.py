"""Items of a task that lm-evaluation-harness defines, over local files."""

from pathlib import Path
from typing import Any

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.definition import Definition, read_definition
from tasks.evaluations.few_shot import Examples, open_examples
from tasks.evaluations.frozen import FrozenItem, item_id
from tasks.evaluations.plain import cluster_of
from tasks.evaluations.rows import Row, local_path, read_rows
from tasks.evaluations.templates import Templates
from training.items.item import Item

_METRICS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes"),
    "loglikelihood": ("acc", "perplexity"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}
"""By output type, those of which at least one must be listed; others are not computed."""
_NATS_PER = {"acc": "choice", "acc_norm": "character", "acc_bytes": "byte"}
_MAX_NEW_TOKENS = 256
"""The harness's default."""


def read_harness(task: TaskConfig) -> list[FrozenItem]:
    """The items of a definition, in the order of its documents.

    Raises:
        ValueError: Names file, line and key or field of what cannot be used, and the remedy.
    """
    definition = read_definition(local_path(task.uri))
    splits = _splits(definition)
    split = definition.get("test_split") or definition.get("validation_split")
    if split not in splits:
        key = "test_split" if definition.get("test_split") else "validation_split"
        raise definition.refuse(
            key,
            f"there is no split {split!r}",
            f"name one of {', '.join(sorted(splits))} as test_split",
        )
    rows = splits[split]
    templates = Templates(definition, frozenset(field for row in rows for field in row.values))
    reader = _Reader(
        task, definition, templates, open_examples(definition, templates, splits), _rule(definition)
    )
    return [reader.item(row) for row in rows]


class _Reader:
    """Turns the documents of one definition into items, one after the other."""

    def __init__(
        self,
        task: TaskConfig,
        definition: Definition,
        templates: Templates,
        examples: Examples,
        rule: dict[str, Any],
    ) -> None:
        self._task, self._definition, self._rule = task, definition, rule
        self._templates, self._examples = templates, examples
        self._delimiter: str = definition.get("target_delimiter")

    def item(self, row: Row) -> FrozenItem:
        name = item_id(row.values)
        names = {"id": name, "cluster": cluster_of(row.values, self._task, name)}
        make = {
            "multiple_choice": self._multiple_choice,
            "loglikelihood": self._loglikelihood,
            "loglikelihood_rolling": self._rolling,
            "generate_until": self._generation,
        }[self._definition.get("output_type")]
        return make(row, names)

    def _before(self, row: Row) -> str:
        """What stands before a question: the description and the examples."""
        description = self._definition.get("description")
        told = self._templates.render("description", description, row) if description else ""
        return told + self._examples.before(row)

    def _question(self, row: Row) -> str:
        text = self._templates.text(row)
        return str(text)

    def _multiple_choice(self, row: Row, names: dict[str, Any]) -> FrozenItem:
        choices = self._templates.choices(row)
        before, text = self._before(row), self._templates.text(row)
        if isinstance(text, int):
            return self._multiple_context(row, names, before, choices)
        gold = self._gold(row, "doc_to_target", self._templates.target(row), choices)
        item = Item(
            **names,
            kind="multiple_choice",
            context=before + text,
            choices=tuple(choices),
            gold=gold,
            delimiter=self._delimiter,
            **self._rule,
        )
        return FrozenItem(item=item, own_text=text + self._delimiter + choices[gold])

    def _multiple_context(
        self, row: Row, names: dict[str, Any], before: str, choices: list[str]
    ) -> FrozenItem:
        """The choices are what is read, and the one continuation is the target (Winogrande)."""
        gold = self._gold(row, "doc_to_text", self._templates.text(row), choices)
        target = str(self._templates.target(row))
        item = Item(
            **names,
            kind="multiple_choice",
            contexts=tuple(before + choice for choice in choices),
            choices=(target,) * len(choices),
            gold=gold,
            delimiter=self._delimiter,
            **self._rule,
        )
        return FrozenItem(item=item, own_text=choices[gold] + self._delimiter + target)

    def _loglikelihood(self, row: Row, names: dict[str, Any]) -> FrozenItem:
        before, text = self._before(row), self._question(row)
        target = self._filled(row, "doc_to_target", self._templates.target(row))
        item = Item(**names, kind="cloze", context=before + text, choices=(target,))
        return FrozenItem(item=item, own_text=text + target)

    def _rolling(self, row: Row, names: dict[str, Any]) -> FrozenItem:
        text = self._filled(row, "doc_to_target", self._templates.target(row))
        return FrozenItem(item=Item(**names, kind="perplexity", choices=(text,)))

    def _generation(self, row: Row, names: dict[str, Any]) -> FrozenItem:
        before, text = self._before(row), self._question(row)
        target = self._templates.target(row)
        answers = [str(answer) for answer in target] if isinstance(target, list) else [str(target)]
        for answer in answers:
            self._filled(row, "doc_to_target", answer)
        item = Item(
            **names,
            kind="generation",
            context=before + text,
            choices=tuple(answers),
            delimiter=self._delimiter,
            **self._rule,
        )
        return FrozenItem(item=item, own_text=text + self._delimiter + answers[0])

    def _gold(self, row: Row, key: str, target: Any, choices: list[str]) -> int:
        if isinstance(target, list) and len(target) == 1:
            target = target[0]
        if isinstance(target, str) and target in choices:
            return choices.index(target)
        if isinstance(target, int) and 0 <= target < len(choices):
            return int(target)
        raise self._definition.refuse(
            key,
            f"expected the one right choice or its index below {len(choices)}, found "
            f"{target!r:.60} for {row.path}:{row.line}",
            "correct the line; several right choices are not supported",
        )

    def _filled(self, row: Row, key: str, target: Any) -> str:
        if target is None or str(target) == "":
            raise self._definition.refuse(
                key, f"is empty for {row.path}:{row.line}", "correct the line, or leave it out"
            )
        return str(target)


def _splits(definition: Definition) -> dict[str, list[Row]]:
    """The rows of the data files, by split; one file without a split is ``train``."""
    kwargs = definition.get("dataset_kwargs") or {}
    named = kwargs.get("data_files")
    splits = named if isinstance(named, dict) else {"train": named}
    if not named or set(kwargs) - {"data_files"}:
        raise definition.refuse(
            "dataset_kwargs",
            f"found {kwargs!r:.80}",
            "expected data_files alone: a file, or files by split",
        )
    return {
        str(split): [row for path in _files(definition, files) for row in read_rows(path)]
        for split, files in splits.items()
    }


def _files(definition: Definition, named: Any) -> list[Path]:
    """Local files; relative ones from the definition's folder."""
    paths: list[Path] = []
    for name in named if isinstance(named, list) else [named]:
        path = definition.path.parent / local_path(str(name))
        paths += sorted(path.parent.glob(path.name)) or [path]
    return paths


def _rule(definition: Definition) -> dict[str, Any]:
    """What of an item follows from the metrics and the way of generating."""
    output_type = definition.get("output_type")
    known = _METRICS[output_type]
    listed = [metric.get("metric") for metric in definition.get("metric_list") or ()]
    used = [metric for metric in listed if metric in known]
    if listed and not used:
        raise definition.refuse(
            "metric_list",
            f"found {', '.join(map(str, listed))}",
            f"expected one of {', '.join(known)} for {output_type}",
        )
    if output_type == "multiple_choice":
        return {"nats_per": _NATS_PER[used[0] if used else "acc"]}
    return _generation_rule(definition) if output_type == "generate_until" else {}


def _generation_rule(definition: Definition) -> dict[str, Any]:
    for metric in definition.get("metric_list") or ():
        loose = [
            key
            for key in ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
            if metric.get(key)
        ]
        if metric.get("metric") == "exact_match" and loose:
            raise definition.refuse(
                "metric_list",
                f"exact_match with {loose[0]} is not supported",
                "write every answer that counts into a list in doc_to_target",
            )
    kwargs = definition.get("generation_kwargs") or {}
    if kwargs.get("do_sample") or kwargs.get("temperature"):
        raise definition.refuse(
            "generation_kwargs", "asks for draws", "answers are written greedily: do_sample false"
        )
    until = kwargs.get("until", [definition.get("fewshot_delimiter")])
    return {
        "stop": (until,) if isinstance(until, str) else tuple(map(str, until)),
        "max_new_tokens": int(kwargs.get("max_gen_toks", _MAX_NEW_TOKENS)),
    }
