"""Pages that quote a document: the quotation goes, the page stays."""

import re
from collections.abc import Collection

from storage.layout import Layout
from storage.objects import ObjectStore
from storage.takedowns import FORGOTTEN, Takedown
from tasks.forget.passages import Passages, escaped

_TAG = re.compile(rb"(<[^>]*>)")


def rewrite_pages(store: ObjectStore, layout: Layout, takedown: Takedown) -> int:
    """Blank what pages of the lineage quote of forgotten documents; returns how many pages.

    Safe to retry. What a page was before is purged.
    """
    passages = Passages(takedown.windows)
    names = {one.document for one in takedown.documents}
    rewritten = 0
    for info in list(store.list(layout.root)):
        if not info.key.endswith(".html"):
            continue
        page = store.get(info.key)
        blanked = blanked_page(page, names, passages)
        if blanked != page:
            store.put(info.key, blanked)
            rewritten += 1
    older = {
        version.key
        for version in store.list_versions(layout.root)
        if version.key.endswith(".html")
        and not (version.is_newest or version.is_marker)
        and _quotes(store.get_version(version.key, version.version), names, passages)
    }
    for key in sorted(older):
        store.purge(key, keep_newest=True)
    return rewritten


def _quotes(page: bytes, names: Collection[str], passages: Passages) -> bool:
    return blanked_page(page, names, passages) != page


def blanked_page(page: bytes, names: Collection[str], passages: Passages) -> bytes:
    """A page without texts that hold a passage, or that are one of ``names``; pure.

    Text is what stands between two tags, and a tag with such an attribute is blanked as a whole.
    """
    named = {escaped(name).encode() for name in names}
    pieces = _TAG.split(page)
    blanked = [
        (b"<!-- forgotten -->" if piece.startswith(b"<") else FORGOTTEN.encode())
        if piece.strip() in named or passages.found_in(piece)
        else piece
        for piece in pieces
    ]
    return b"".join(blanked)
