"""The items of a task that a lineage's YAML names, as its file has them now."""

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.frozen import FrozenItem, chosen
from tasks.evaluations.harness import read_harness
from tasks.evaluations.plain import read_plain


def read_configured(task: TaskConfig) -> tuple[FrozenItem, ...]:
    """The items of ``task``, at most ``max_items`` of them.

    Raises:
        ValueError: A definition or a data file cannot be used; names file, line and field.
    """
    read = read_harness(task) if task.kind == "lm_eval" else read_plain(task)
    try:
        return chosen(read, task.max_items)
    except ValueError as error:
        raise ValueError(f"{task.uri}: {error}") from error
