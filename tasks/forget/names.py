"""The ledgers with other names in the places of the documents that are forgotten.

What was seen how often stays on record, under what stands for a document: by its text ``who-saw``
finds it still.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from storage.errors import NotFoundError
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.takedowns import Takedown
from tasks.forget.snapshot import SCRATCH
from tasks.forget.tables import without_ledger_names


def rename_in_ledgers(
    store: ObjectStore, layout: Layout, takedown: Takedown, work_dir: Path
) -> int:
    """Rewrite the ledgers that name a forgotten document; returns how many.

    Safe to retry. What a ledger was before is purged.
    """
    named = {(one.snapshot, one.domain, one.document): one.stand_in for one in takedown.documents}
    rewritten = 0
    # Those of before come last, so that they are purged when what replaces them is there.
    found = sorted(store.list_versions(layout.ledgers), key=lambda version: not version.is_newest)
    for version in found:
        if version.is_marker:
            continue
        with TemporaryDirectory(dir=work_dir, prefix=SCRATCH) as scratch:
            before, after = Path(scratch, "before"), Path(scratch, "after")
            try:
                before.write_bytes(store.get_version(version.key, version.version))
            except NotFoundError:
                # Purged with another version of the same ledger.
                continue
            if not without_ledger_names(before, after, named):
                continue
            if version.is_newest:
                store.put(version.key, after.read_bytes())
                rewritten += 1
            store.purge(version.key, keep_newest=True)
    return rewritten
