"""Where case is not a matter of one letter for one other."""

import sys
import unicodedata
from functools import cache

TURKISH_I = {0x130: "i", 0x131: "i"}
"""The capital with a dot and the small letter without, whose other cases are other languages' i."""
DOT = 0x307
"""What Unicode leaves above a small i whose capital had a dot."""


@cache
def longer_folds() -> dict[int, str]:
    """What such characters count as when case makes no difference: ``\u00df`` as ``ss``.

    Unicode's full case folding, which never changes for a character that has been assigned, but
    that accents stay on their letter as far as composed text (NFC) has them there: so Greek in
    capitals and in small letters is one. Of at most three letters, of which none is in here.
    """
    every = map(chr, range(sys.maxunicode + 1))
    return {
        ord(one): unicodedata.normalize("NFC", one.upper()).casefold()
        for one in every
        if len(one.casefold()) > 1 and ord(one) not in TURKISH_I
    }
