"""datatrove's side of bench_quality.py, in an environment of its own: answers one line a question.

Imports nothing of this project. A question names filters; the answer is why each document was
dropped, "" where it was kept, and the wall and processor seconds from the file to the last verdict.
"""

# ruff: noqa: T201  a script for a script
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.text import split_into_parts

FILTERS = {
    "gopher": (GopherRepetitionFilter, GopherQualityFilter),
    "c4": (C4QualityFilter,),
    "fineweb": (FineWebQualityFilter,),
}


def main() -> None:
    """Answer until the end of the input."""
    file = Path(sys.argv[1])
    for line in sys.stdin:
        filters = [make() for name in line.split() for make in FILTERS[name]]
        # The words of the last texts are kept by it; a second question must not find them.
        split_into_parts.cache_clear()
        started_at, processor = time.perf_counter(), time.process_time()
        reader = JsonlReader(str(file.parent), glob_pattern=file.name)
        reasons = [reason_of(document, filters) for document in reader.run()]
        seconds = [time.perf_counter() - started_at, time.process_time() - processor]
        print("answer", json.dumps([reasons, *seconds]), flush=True)


def reason_of(document: Document, filters: list[Any]) -> str:
    """Why the first filter that drops it does so."""
    for filter_ in filters:
        verdict = filter_.filter(document)
        if verdict is not True:
            return verdict[1] if isinstance(verdict, tuple) else "dropped"
    return ""


if __name__ == "__main__":
    main()
