"""tiktoken as a peer of ``bench_tokenize.py``; runs in an environment of its own.

Reads one JSON object from standard input, then a line for every round; writes the seconds of the
processor that each took. Documents become rows of one stream of tokens, as packing makes them.
"""

# ruff: noqa: T201  a script for another script
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import json
import sys
import time

import numpy as np
import tiktoken


def main() -> None:
    """Answer ``bench_tokenize.py``."""
    job = json.loads(sys.stdin.readline())
    ranks = {bytes.fromhex(token): token_id for token, token_id in job["ranks"].items()}
    encoding = tiktoken.Encoding(
        "peer", pat_str=job["pattern"], mergeable_ranks=ranks, special_tokens={}
    )
    with open(job["documents"], encoding="utf-8") as file:  # noqa: PTH123  as short as it gets
        texts = json.load(file)
    start = np.array([job["start_id"]], np.uint16)
    for _ in sys.stdin:
        began = time.process_time()
        pieces = []
        for text in texts:
            pieces += [
                start,
                encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16),
            ]
        stream = np.concatenate(pieces)
        rows = -(-(len(stream) - 1) // job["seq_len"])
        padded = np.full(rows * job["seq_len"] + 1, job["start_id"], np.uint16)
        padded[: len(stream)] = stream
        print(time.process_time() - began, flush=True)
        np.save(job["tokens"], stream)
        print("saved", flush=True)


main()
