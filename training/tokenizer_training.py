"""A tokenizer of one's own: byte-level BPE, learned from the texts of a first refresh."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, pre_tokenizers, trainers

from training.tokenizer import Tokenizer, load_tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a tokenizer that is trained here; its id is 0."""

_LONGEST_RUN = 1024
"""Characters without white space, or of it, from which a tokenizer learns in one piece."""
# Looking back first, so that the end of a run is not looked for from each of its characters.
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{_LONGEST_RUN},}}|(?<!\s)\s{{{_LONGEST_RUN},}}")


def train_tokenizer(texts: Iterable[str], directory: Path, *, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer on ``texts`` and write it to ``directory``.

    The same texts give the same files, in whatever order they come. Every text can be encoded and
    comes back unchanged; few texts may give fewer than ``vocab_size`` tokens. A run of letters or
    of white space is learned from in pieces, for a merge takes time in the square of its length.

    Raises:
        ValueError: ``vocab_size`` does not hold the 256 bytes and the special token.
    """
    if vocab_size < 257:
        raise ValueError(
            f"expected a vocab_size of at least 257 (256 bytes and {END_OF_TEXT}), "
            f"got {vocab_size}; raise it in the model's configuration"
        )
    encoder = Encoder(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator((part for text in texts for part in _parts(text)), trainer)
    directory.mkdir(parents=True, exist_ok=True)
    encoder.save(str(directory / "tokenizer.json"))
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    config = {
        **special,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(directory / "special_tokens_map.json", special)
    _write_json(directory / "tokenizer_config.json", config)
    return load_tokenizer(directory)


def _parts(text: str) -> Iterator[str]:
    """``text`` without runs that are longer than any word; nearly always whole."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        for end in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
            yield text[start:end]
            start = end
    yield text[start:]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
