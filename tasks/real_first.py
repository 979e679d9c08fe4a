"""The canonical order: first what people wrote, then what was made from it.

Of two documents that are alike the later one is dropped. So a synthetic one never takes the place
of a real one that comes with the same refresh, whatever their sources are called.
"""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.documents import Document, Reject


def real_first(items: Iterable[Document | Reject], path: Path) -> Iterator[Document | Reject]:
    """Rejects and real documents, then the synthetic ones, which wait in a new file at ``path``.

    Each kind keeps its order: by source, file and position.
    """
    with path.open("w+b") as file:
        for item in items:
            if isinstance(item, Document) and item.provenance == "synthetic":
                pickle.dump(item, file)
            else:
                yield item
        end = file.tell()
        file.seek(0)
        while file.tell() < end:
            yield pickle.load(file)
    path.unlink()
