"""Texts of documents to tokens: by tokenizers at first, by our own kernel where there is much.

Which of the two encodes a document never shows in its tokens. The kernel is tried on thousands of
texts before it is used at all (``training/fast_bpe``), and a part of what it encodes is encoded
both ways.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.fast_bpe.encoder import FastEncoder
    from training.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_SOME_CHARACTERS, _MANY_CHARACTERS = 700_000, 4_000_000
"""After some the fast path is loaded if this machine has tried it before, which takes as long as
these do by tokenizers; after many it is tried, which takes about twice as long as those."""
_CHECKED_ONE_IN = 200


@dataclass(frozen=True, slots=True)
class Legible:
    """A text to be encoded, and which one it is."""

    text: str
    digest: bytes
    """16 bytes: ``content_digest`` of the text."""
    document: str
    uri: str


# Not comparable: it holds arrays.
@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The tokens of a batch of texts."""

    tokens: NDArray[Any]
    """Of all texts in order, without framing; of the tokenizer's ``token_dtype``."""
    lengths: NDArray[np.int64]
    """Tokens of each text."""


class EncodingMismatchError(ValueError):
    """Two ways to encode a document gave different tokens; nothing was stored."""


class DocumentEncoder:
    """Encodes the documents of one refresh, batch by batch.

    Args:
        tokenizer: Of the lineage.
        certificates: Folder of this machine in which trials of tokenizers are recorded.
    """

    def __init__(self, tokenizer: "Tokenizer", certificates: Path) -> None:
        self._tokenizer, self._certificates = tokenizer, certificates
        self._fast: FastEncoder | None = None
        self._num_characters = 0

    @property
    def token_dtype(self) -> str:
        """Of the arrays that ``encode`` gives."""
        return self._tokenizer.token_dtype

    def encode(self, documents: Sequence[Legible]) -> Encoded:
        """Tokens of each text, without framing.

        Raises:
            EncodingMismatchError: The fast path is wrong; the message names document and tokens.
        """
        texts = [item.text for item in documents]
        if self._is_due(sum(map(len, texts))):
            self._fast = self._open_fast()
        if self._fast is None or not texts:
            slow = self._tokenizer.encode_batch(texts)
            tokens = np.concatenate([np.empty(0, self.token_dtype), *slow])
            return Encoded(tokens, np.array([len(ids) for ids in slow], np.int64))
        tokens, counts = self._fast.encode(texts, self.token_dtype)
        self._check(documents, np.split(tokens, np.cumsum(counts)[:-1]))
        return Encoded(tokens, np.asarray(counts, np.int64))

    def _is_due(self, more: int) -> bool:
        """Whether ``more`` characters are those after which the fast path is worth its loading."""
        before, self._num_characters = self._num_characters, self._num_characters + more
        if self._fast is not None:
            return False
        if before < _MANY_CHARACTERS <= self._num_characters:
            return True
        return before < _SOME_CHARACTERS <= self._num_characters and self._was_tried()

    def _was_tried(self) -> bool:
        from training.fast_bpe.certify import was_tried  # noqa: PLC0415  imports numba

        return was_tried(self._tokenizer, self._certificates)

    def _open_fast(self) -> "FastEncoder | None":
        from training.fast_bpe.certify import certified_encoder  # noqa: PLC0415  imports numba
        from training.fast_bpe.encoder import NoFastPathError  # noqa: PLC0415  imports numba

        try:
            return certified_encoder(self._tokenizer, self._certificates)
        except NoFastPathError as error:
            logger.info("this tokenizer has no fast path, tokenizers encodes all: %s", error)
            return None

    def _check(self, documents: Sequence[Legible], encoded: Sequence[np.ndarray]) -> None:
        """Encode some of ``documents`` once more; which ones follows from their contents."""
        from training.fast_bpe.certify import difference_of, revoke  # noqa: PLC0415  imports numba

        places = [
            place
            for place, item in enumerate(documents)
            if int.from_bytes(item.digest[:8], "big") % _CHECKED_ONE_IN == 0
        ]
        texts = [documents[place].text for place in places]
        for place, slow in zip(places, self._tokenizer.encode_batch(texts), strict=True):
            difference = difference_of(slow, encoded[place])
            if difference:
                item = documents[place]
                found = f"of document {item.document} in {item.uri} {difference}"
                revoke(self._tokenizer, self._certificates, found)
                raise EncodingMismatchError(
                    f"the fast path gives other ids than tokenizers: {found}; no snapshot was "
                    "made. Refresh again: on this machine tokenizers now encodes all. Please "
                    "report the document and the tokenizer"
                )
