"""litdata's side of bench_reader.py, in an environment of its own: answers one line a question.

Imports nothing of this project. ``rows.npy`` becomes litdata's own chunks once, of whole samples.
"""

# ruff: noqa: T201  a script for a script
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import litdata
import numpy as np
import torch
from litdata.streaming.item_loader import TokensLoader

CHUNK_SAMPLES = 2048


def main() -> None:
    """Write the chunks, then answer until the end of the input."""
    root, batch = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    rows = np.load(root / "rows.npy")
    tokens = rows.shape[1]
    folder = str(root / "litdata")
    cache = litdata.streaming.Cache(
        folder, item_loader=TokensLoader(block_size=tokens), chunk_size=CHUNK_SAMPLES * tokens
    )
    for number, row in enumerate(rows):
        cache[number] = torch.from_numpy(row)
    cache.done()
    cache.merge()
    for line in sys.stdin:
        started_at, processor = time.perf_counter(), time.process_time()
        found: list[str] = []
        for tensor in batches(folder, tokens, len(rows), batch):
            if line.strip() == "check":
                found += [row.tobytes().hex() for row in tensor.numpy().astype("<u2")]
        seconds = [time.perf_counter() - started_at, time.process_time() - processor]
        answer = found if line.strip() == "check" else seconds
        print("answer", json.dumps(answer), flush=True)


def batches(folder: str, tokens: int, num_rows: int, batch: int) -> Iterator[torch.Tensor]:
    """Every sample once, shuffled, ``int64[batch, tokens]``."""
    dataset = litdata.StreamingDataset(
        folder, item_loader=TokensLoader(block_size=tokens), shuffle=True, drop_last=False
    )
    samples = iter(dataset)
    for _ in range(0, num_rows, batch):
        yield torch.stack([next(samples) for _ in range(batch)]).to(torch.int64)


if __name__ == "__main__":
    main()
