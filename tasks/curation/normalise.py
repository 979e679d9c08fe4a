"""One spelling of a text, so that equal texts have equal bytes."""

import re
import unicodedata

# CR is not here: it has become LF by the time this is used.
_CONTROL_BYTES = bytes(code for code in range(32) if chr(code) not in "\n\t")
_CONTROL = re.compile(f"[{re.escape(_CONTROL_BYTES.decode())}]")
_MOST_ROUNDS = 8


def normalise(text: str) -> str:
    """One spelling of a text: NFC, line ends as LF, no control characters but LF and tab.

    Idempotent. Two texts that differ only in what this removes count as the same document.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    encoded = text.encode()
    # Searching the encoded bytes takes a tenth of the time of the pattern, and few texts need it.
    if len(encoded.translate(None, _CONTROL_BYTES)) != len(encoded):
        text = _CONTROL.sub("", text)
    # Last, because removing a control character can bring a letter and its accent together.
    return unicodedata.normalize("NFC", text)


def as_given(text: str) -> set[str]:
    """What a text that a person gives in a file may be: an editor ends the last line or not.

    All normalised, the text as it is among them.
    """
    normal = normalise(text)
    body = normal.rstrip("\n")
    return {normal, body, body + "\n"}


def mend(text: str) -> str:
    """``normalise``, and lines that were decoded with the wrong encoding are decoded anew.

    ``schÃ¶n`` becomes ``schön``; what ftfy finds plausible is left alone. Line by line, because one
    quotation in another encoding must not keep the rest from being mended. Idempotent: it is
    repeated until nothing changes, and a text that does not settle is only normalised.
    """
    normal = normalise(text)
    mended = normal
    for _ in range(_MOST_ROUNDS):
        again = normalise(_mend_lines(mended))
        if again == mended:
            return mended
        mended = again
    return normal


def _mend_lines(text: str) -> str:
    if text.isascii():
        return text
    import ftfy  # noqa: PLC0415  only for those who ask for it

    lines = text.split("\n")
    return "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in lines)
