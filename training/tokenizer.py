"""Tokenizers: trained here or imported, always a Hugging Face directory, always one framing.

Text is data: what spells a special token is encoded as ordinary text, so the token that opens a
document never occurs inside one. The store keeps a tokenizer under the digest of its files.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Encoder

from storage.errors import NotFoundError
from storage.layout import Layout
from storage.manifest import (
    FileDigest,
    digest_file,
    fetch_verified,
    identity_of,
    load,
    publish,
)
from storage.objects import ObjectStore

_UNIGRAM = re.compile(r'"type"\s*:\s*"Unigram"')
_APART = "\0"
"""Put before the names of special tokens that the model would find in text: no document has it."""
_AROUND = ("{0}", "a{0}", " {0}", "\n{0}", "a {0} a", ".{0}.", "{0}{0}", "1{0}1", "\u65e5{0}\u65e5")
"""Places of a text in which a framing token is tried."""

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""What is copied of a directory, so far as it is there; weights that lie beside it are not."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer ready for use, with the framing of documents (docs/design.md)."""

    directory: Path
    """Hugging Face directory that it was read from."""
    vocab_size: int
    """One more than the largest token id."""
    start_id: int
    """Opens every document and occurs nowhere else."""
    end_id: int
    """Closes a document; equal to ``start_id`` when the tokenizer has one such token for both."""
    encoder: Encoder = field(repr=False)

    @property
    def token_dtype(self) -> str:
        """The smallest of ``uint16`` and ``uint32`` that holds every token id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def adds_start(self) -> bool:
        """Whether other libraries open every text with ``start_id``, as they do for Llama."""
        return self.encoder.encode("").ids[:1] == [self.start_id]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, without framing; arrays of ``token_dtype``."""
        encodings = self.encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.token_dtype) for encoding in encodings]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of ``tokens``, framing left out."""
        return self.encoder.decode([int(token) for token in tokens], skip_special_tokens=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerManifest:
    """A tokenizer in the store; ``manifest.json`` makes it exist."""

    digest: str
    vocab_size: int
    start_id: int
    end_id: int
    files: tuple[FileDigest, ...]


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a Hugging Face tokenizer directory.

    The first of tokenizer_config.json, special_tokens_map.json and config.json that names an end of
    text decides the framing: its beginning of text opens and its end of text closes a document, or
    the end of text does both when the file names no other beginning.

    Raises:
        ValueError: No tokenizer.json, no end of text, or text can spell a framing token.
    """
    encoder = _open(directory)
    start_id, end_id = _framing(directory, encoder)
    return _guarded(directory, encoder, start_id, end_id)


def tokenizer_digest(directory: Path) -> str:
    """Identity of the tokenizer in ``directory``: SHA-256 over its files and framing, hex."""
    return _manifest_of(load_tokenizer(directory)).digest


def upload_tokenizer(store: ObjectStore, layout: Layout, directory: Path) -> str:
    """Keep the tokenizer of ``directory`` in the store; returns its prefix. Safe to retry."""
    return keep_tokenizer(store, layout, load_tokenizer(directory))


def keep_tokenizer(store: ObjectStore, layout: Layout, tokenizer: Tokenizer) -> str:
    """Keep ``tokenizer`` in the store unless it is there; returns its prefix. Safe to retry."""
    manifest = _manifest_of(tokenizer)
    prefix = layout.tokenizer(manifest.digest)
    if not store.exists(f"{prefix}/manifest.json"):
        for file in manifest.files:
            store.put_file(f"{prefix}/{file.name}", tokenizer.directory / file.name)
        publish(store, f"{prefix}/manifest.json", manifest)
    return prefix


def fetch_tokenizer(store: ObjectStore, prefix: str, directory: Path) -> Tokenizer:
    """Read a tokenizer of the store, every file verified; ``directory`` holds the copies if any.

    Raises:
        NotFoundError: No tokenizer lies under ``prefix``.
        CorruptError: A file is missing or altered.
    """
    manifest = read_tokenizer_manifest(store, prefix)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [fetch_verified(store, prefix, file, directory / file.name) for file in manifest.files]
    source = paths[0].parent
    return _guarded(source, _open(source), manifest.start_id, manifest.end_id)


def read_tokenizer_manifest(store: ObjectStore, prefix: str) -> TokenizerManifest:
    """The manifest of the tokenizer under ``prefix``.

    Raises:
        NotFoundError: No tokenizer lies there.
    """
    try:
        return load(store, f"{prefix}/manifest.json", TokenizerManifest)
    except NotFoundError as error:
        raise NotFoundError(
            f"expected a tokenizer under {prefix}, found no manifest.json there; import the "
            "tokenizer again or correct the prefix"
        ) from error


def _manifest_of(tokenizer: Tokenizer) -> TokenizerManifest:
    """Digests of the files of ``tokenizer`` and what a reader needs to know of it."""
    files = tuple(
        digest_file(tokenizer.directory / name, name)
        for name in TOKENIZER_FILES
        if (tokenizer.directory / name).is_file()
    )
    framing = (tokenizer.start_id, tokenizer.end_id)
    return TokenizerManifest(
        digest=identity_of({"files": files, "framing": framing}),
        vocab_size=tokenizer.vocab_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        files=files,
    )


def _open(directory: Path) -> Encoder:
    """The encoder of ``directory``, set so that text stays text and nothing is added or cut."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"expected a tokenizer.json in {directory}, found none; save the tokenizer with "
            "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...), which writes it"
        )
    encoder = Encoder.from_str(_kept_apart(path.read_text("utf-8")))
    encoder.encode_special_tokens = True
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _kept_apart(body: str) -> str:
    """A tokenizer.json in which no special token is a piece that a unigram model finds in text.

    SentencePiece never finds them there (its control symbols); ``tokenizers`` keeps them among the
    pieces, with the best of all scores. All ids and scores stay.
    """
    # Most are none, and to take apart those of 100,000 merges takes as long as to load them.
    if not _UNIGRAM.search(body):
        return body
    value = json.loads(body)
    if value["model"].get("type") != "Unigram":
        return body
    added = value.get("added_tokens") or []
    special = {token["content"] for token in added if token["special"]}
    found = {piece for piece, _ in value["model"]["vocab"] if piece in special}
    for piece in value["model"]["vocab"]:
        if piece[0] in found:
            piece[0] = _APART + piece[0]
    for token in added:
        if token["content"] in found:
            token["content"] = _APART + token["content"]
    return json.dumps(value, ensure_ascii=False)


def _guarded(directory: Path, encoder: Encoder, start_id: int, end_id: int) -> Tokenizer:
    """A Tokenizer, once it is known that no text can spell its framing tokens."""
    for token_id in {start_id, end_id}:
        spelled = encoder.id_to_token(token_id).removeprefix(_APART)
        # Alone it may be taken apart where next to other letters it is not.
        texts = [around.format(spelled) for around in _AROUND]
        encodings = encoder.encode_batch(texts, add_special_tokens=False)
        if any(token_id in encoding.ids for encoding in encodings):
            raise ValueError(
                f"text that spells {spelled!r} is encoded as token {token_id}, which frames the "
                f'documents; mark it as "special": true among the added_tokens of '
                f"{directory / 'tokenizer.json'}, or name another bos_token or eos_token in "
                "tokenizer_config.json where it is and the model itself makes it of letters"
            )
    vocab_size = max(encoder.get_vocab(with_added_tokens=True).values()) + 1
    return Tokenizer(directory, vocab_size, start_id, end_id, encoder)


def _framing(directory: Path, encoder: Encoder) -> tuple[int, int]:
    """The ids that open and close a document, as the directory's files name them."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = _read_json(directory / name)
        end = _token_id(values.get("eos_token"), encoder, directory / name)
        if end is not None:
            start = _token_id(values.get("bos_token"), encoder, directory / name)
            return (end if start is None else start), end
    values = _read_json(directory / "config.json")
    end, start = _first_id(values.get("eos_token_id")), _first_id(values.get("bos_token_id"))
    if end is None:
        raise ValueError(
            f"expected an end-of-text token, found no eos_token in tokenizer_config.json or "
            f"special_tokens_map.json and no eos_token_id in config.json of {directory}; "
            "name one in tokenizer_config.json"
        )
    for token_id in (end, end if start is None else start):
        if encoder.id_to_token(token_id) is None:
            raise ValueError(
                f"{directory / 'config.json'} names token {token_id} as begin or end of text, "
                "which tokenizer.json does not hold; name bos_token and eos_token in "
                "tokenizer_config.json"
            )
    return (end if start is None else start), end


def _token_id(value: Any, encoder: Encoder, path: Path) -> int | None:
    """Id of a special token as the files spell it: text, or an object with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    if content is None:
        return None
    token_id = encoder.token_to_id(content)
    if token_id is None:
        token_id = encoder.token_to_id(_APART + content)
    if token_id is None:
        raise ValueError(
            f"{path} names the special token {content!r}, which tokenizer.json does not hold; "
            "save the tokenizer again with all its files"
        )
    return token_id


def _first_id(value: int | list[int] | None) -> int | None:
    """Of several ends of text the first: it closes a document, the others close turns."""
    return value[0] if isinstance(value, list) else value


def _read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, or none at all when there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
