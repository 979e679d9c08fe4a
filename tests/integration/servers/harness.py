"""What lm-evaluation-harness asks a model, by its own reading of definitions.

Run by an interpreter that has ``lm_eval`` and nothing of ours. Reads a list of definitions as JSON
on standard input, and writes by task name, for every document, its requests and its target.
"""

import contextlib
import importlib
import json
import sys
from typing import Any


def asked(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """Requests and target of every test document of one definition."""
    task = importlib.import_module("lm_eval.api.task").ConfigurableTask(config=definition)
    task.set_fewshot_seed(seed=1234)
    found: list[dict[str, Any]] = []
    for document in task.test_docs():
        before = task.fewshot_context(document, definition.get("num_fewshot", 0))
        made = task.construct_requests(document, before)
        requests = made if isinstance(made, list) else [made]
        found.append(
            {
                "requests": [request.args for request in requests],
                "target": task.doc_to_target(document),
            }
        )
    return found


def main() -> None:
    """Answer on standard output; what the harness prints itself goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        told = {each["task"]: asked(dict(each)) for each in json.load(sys.stdin)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
