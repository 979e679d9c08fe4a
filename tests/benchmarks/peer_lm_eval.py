"""lm-evaluation-harness as a contestant of ``bench_items``, in an interpreter of its own.

It wants other versions of some packages than this project. Answers one line of JSON on standard
output for each on standard input, and writes everything else to standard error.
"""

import contextlib
import importlib
import json
import sys
import time
from typing import Any

import torch

from training.foreign.torchvision_operators import declare_missing_operators


def main() -> None:
    """Arguments: the model's directory and the number of threads."""
    directory, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    declare_missing_operators()
    backend = importlib.import_module("lm_eval.models.huggingface").HFLM
    first = backend(pretrained=directory, device="cpu", dtype="float32", batch_size=1)
    for line in sys.stdin:
        asked = json.loads(line)
        # Progress bars and notes are printed to standard output, too.
        with contextlib.redirect_stdout(sys.stderr):
            model = backend(
                pretrained=first.model, tokenizer=first.tokenizer, batch_size=asked["batch_size"]
            )
            seconds, results = _timed(model, asked["function"], asked["requests"])
        print(json.dumps({"seconds": seconds, "results": results}), flush=True)  # noqa: T201


def _timed(
    model: Any, function: str, requests: list[list[Any]]
) -> tuple[tuple[float, float], list[Any]]:
    instance = importlib.import_module("lm_eval.api.instance").Instance
    kind = "loglikelihood" if function == "loglikelihood" else function
    instances = [
        instance(request_type=kind, doc={}, arguments=tuple(arguments), idx=number)
        for number, arguments in enumerate(requests)
    ]
    started_at, processor = time.perf_counter(), time.process_time()
    results = getattr(model, function)(instances, disable_tqdm=True)
    return (time.perf_counter() - started_at, time.process_time() - processor), results


if __name__ == "__main__":
    main()
