"""Task definitions of lm-evaluation-harness: the YAML with its lines, and what of it is understood.

What a definition says in data and templates is read; what it says in Python is refused, because a
definition is data here.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_READ = (
    "task", "include", "dataset_path", "dataset_kwargs", "training_split", "validation_split",
    "test_split", "fewshot_split", "output_type", "doc_to_text", "doc_to_target", "doc_to_choice",
    "description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot",
    "metric_list", "generation_kwargs", "filter_list", "repeats",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "dataset_name", "doc_to_decontamination_query", "group", "group_alias", "metadata",
    "should_decontaminate", "tag", "task_alias", "unsafe_code",
)  # fmt: skip
_REFUSED = {
    "process_docs": "write the processed documents to the data file",
    "process_results": "use one of the metrics acc, acc_norm, exact_match, perplexity",
    "custom_dataset": "write the documents to a file of JSON lines",
    "use_prompt": "write the prompt as a template in doc_to_text",
    "gen_prefix": "write it at the end of doc_to_text",
    "doc_to_image": "only text is read",
    "doc_to_audio": "only text is read",
    "class": "write the task as templates over a data file",
}
_DEFAULTS: dict[str, Any] = {
    "target_delimiter": " ",
    "fewshot_delimiter": "\n\n",
    "num_fewshot": 0,
    "repeats": 1,
}
_OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition, its includes merged, with the place of every key."""

    path: Path
    values: dict[str, Any]
    places: dict[str, str]
    """``file:line`` by key."""

    def get(self, key: str) -> Any:
        """The value of a key, or what the harness takes where there is none."""
        value = self.values.get(key)
        return _DEFAULTS.get(key) if value is None else value

    def refuse(self, key: str, problem: str, remedy: str) -> ValueError:
        """What is wrong with the value of a key, to be raised."""
        return ValueError(f"{self.places.get(key, self.path)}: {key}: {problem}; {remedy}")


class _Loader(yaml.SafeLoader):
    """Builds plain values only; ``!function`` names are kept as such, to be refused by key."""


@dataclass(frozen=True, slots=True)
class _Function:
    name: str


def _keep_function(loader: _Loader, node: yaml.ScalarNode) -> _Function:
    return _Function(str(loader.construct_scalar(node)))


_Loader.add_constructor("!function", _keep_function)


def read_definition(path: Path) -> Definition:
    """The definition in ``path``.

    Raises:
        ValueError: Names file, line and key of what is unknown or not supported, and the remedy.
    """
    definition = _load(path, seen=())
    if isinstance(definition.values.get("task"), list):
        raise definition.refuse(
            "task", "this is a group of tasks", "give the file of each of its tasks instead"
        )
    for key, value in definition.values.items():
        _check_key(definition, key, value)
    for key in ("output_type", "dataset_path", "doc_to_target"):
        if definition.get(key) is None:
            raise definition.refuse(key, "is missing", "a task needs it")
    if definition.get("output_type") not in _OUTPUT_TYPES:
        found = definition.get("output_type")
        raise definition.refuse(
            "output_type", f"found {found!r}", f"expected one of {', '.join(_OUTPUT_TYPES)}"
        )
    if definition.get("dataset_path") != "json":
        found = definition.get("dataset_path")
        raise definition.refuse(
            "dataset_path",
            f"found {found!r}",
            "only local files are read: write json, and the files into dataset_kwargs.data_files",
        )
    return definition


def _load(path: Path, seen: tuple[Path, ...]) -> Definition:
    if path in seen:
        raise ValueError(f"{path}: include: includes itself; take it out")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; expected a task definition of lm-evaluation-harness"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ValueError(  # noqa: TRY004  the file is at fault, not a caller
            f"{path}: expected a mapping with the keys task, dataset_path, output_type, ..."
        )
    places = {key.value: f"{path}:{key.start_mark.line + 1}" for key, _ in node.value}
    include = values.get("include")
    included = include if isinstance(include, list) else [include] if include else []
    # Of several the first counts most, and the file itself more than all of them.
    for name in included:
        base = _load(path.parent / str(name), (*seen, path))
        values, places = {**base.values, **values}, {**base.places, **places}
    return Definition(path, values, places)


def _check_key(definition: Definition, key: str, value: Any) -> None:
    if key in _REFUSED and value is not None:
        raise definition.refuse(key, "is not supported", _REFUSED[key])
    if key not in (*_READ, *_WITHOUT_EFFECT, *_REFUSED):
        near = difflib.get_close_matches(key, _READ, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "leave it out"
        raise definition.refuse(key, "is not a key of a task definition that is read here", remedy)
    if _has_function(value):
        raise definition.refuse(
            key, "is Python (!function)", "write it as a template, or its result to the data file"
        )
    if key == "repeats" and value not in (None, 1):
        raise definition.refuse(key, f"found {value!r}", "items are asked once: leave it out")
    if key == "filter_list" and value and not _takes_first(value):
        raise definition.refuse(
            key, "only take_first is supported", "what the model writes is compared as it is"
        )


def _has_function(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_function, value.values()))
    if isinstance(value, list):
        return any(map(_has_function, value))
    return isinstance(value, _Function)


def _takes_first(filters: Any) -> bool:
    steps = [
        step.get("function")
        for pipeline in filters
        if isinstance(pipeline, dict)
        for step in pipeline.get("filter", ())
    ]
    return steps == ["take_first"]
