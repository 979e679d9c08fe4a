"""Small tokenizers of every kind that has a fast path."""

from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Encoder

from training.tokenizer import Tokenizer, load_tokenizer

_TEXTS = [
    "Where there's a will, there's a way; they'll say WE'RE lost 1234567 times (or 89).\n",
    "def main(argv: list[str]) -> int:\n    return len(argv)  # über 30 Größen\n\n\t\tpass\n",
    "东京は日本の首都です。人口は約1400万人。Наши поезда идут. שלום מرحبا नमस्ते 👩\u200d🔬🙂\n",
]
_BY_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    pattern = Regex(_BY_WORDS.replace("DIGITS", digits))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE_TOKENIZERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt2-digits": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama3": _split("{1,3}"),
    "qwen2": _split(""),
}


def make(
    directory: Path,
    kind: str,
    *,
    normalise: bool = False,
    added: tuple[str, ...] = (),
    ignore_merges: bool = False,
) -> Tokenizer:
    """A tokenizer with 500 tokens whose end of text is ``<|endoftext|>``."""
    encoder = Encoder(models.BPE(ignore_merges=ignore_merges))
    encoder.pre_tokenizer = PRE_TOKENIZERS[kind]
    encoder.decoder = decoders.ByteLevel()
    if normalise:
        encoder.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator(_TEXTS * 3, trainer)
    encoder.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    directory.mkdir(parents=True)
    encoder.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return load_tokenizer(directory)
