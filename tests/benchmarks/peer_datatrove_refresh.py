"""datatrove's like of a whole refresh, in an environment of its own; for bench_refresh.py.

    PYTHON peer_datatrove_refresh.py FILE.jsonl TOKENIZER.json FOLDER

Imports nothing of this project. Reads, drops by Gopher's and C4's rules, replaces addresses of
e-mail and of machines, drops near-duplicates (14 bands of 8), tokenizes and writes. It does without
languages (their model is not in the package) and task items. Prints the processor seconds after
imports, and how many documents are left, as JSON; a first round over a few is not counted.
"""

# ruff: noqa: T201  a script for a script
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import (
    C4QualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter

_FEW = 60


def main() -> None:
    """Run twice, and print the second time."""
    file, tokenizer, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    few = folder / "few.jsonl"
    with file.open(encoding="utf-8") as lines:
        few.write_text("".join(islice(lines, _FEW)), encoding="utf-8")
    run(few, tokenizer, folder / "few")
    began = time.process_time()
    left = run(file, tokenizer, folder / "all")
    print(json.dumps({"seconds": time.process_time() - began, "documents": left}))


def run(file: Path, tokenizer: str, folder: Path) -> int:
    """From the file to tokens; returns the documents that are left."""
    config = MinhashConfig()
    signatures, buckets, removed = (str(folder / name) for name in ("sigs", "buckets", "removed"))
    curated = str(folder / "curated")
    chain(
        JsonlReader(str(file.parent), glob_pattern=file.name),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(),
        PIIFormatter(),
        JsonlWriter(curated, compression=None),
        MinhashDedupSignature(signatures, config),
    )
    for band in range(config.num_buckets):
        finder = MinhashDedupBuckets(signatures, buckets, config=config)
        exhaust(finder.run(None, band, config.num_buckets))
    exhaust(MinhashDedupCluster(buckets, removed, config=config).run(None, 0, 1))
    final = str(folder / "final")
    chain(
        JsonlReader(curated),
        MinhashDedupFilter(removed),
        JsonlWriter(final, compression=None),
        DocumentTokenizer(str(folder / "tokens"), tokenizer, shuffle_documents=False),
    )
    return sum(path.read_bytes().count(b"\n") for path in Path(final).glob("*.jsonl"))


def chain(*steps: Any) -> None:
    """Each step on what the one before gives."""
    documents: Any = None
    for step in steps:
        documents = step.run(documents, 0, 1)
    exhaust(documents)


def exhaust(documents: Any) -> None:
    """Let a pipeline run to its end."""
    for _ in documents or ():
        pass


if __name__ == "__main__":
    main()
