"""Documents to packed token ids: ours, tokenizers' batch encoding, and tiktoken, on one core.

First the ids of all documents are compared, then the three take turns; what is compared is the
time of the processor, which a busy machine changes less than the clock on the wall. Last come
documents that quadratic merging would never end with. Run it as
``python tests/benchmarks/bench_tokenize.py FILE.jsonl.gz ...``, each line an object with ``text``.
"""

# ruff: noqa: T201  a script for people

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

from tasks.framing import framing_of
from tasks.pack import row_blocks, token_stream
from training.fast_bpe.certify import certified_encoder
from training.fast_bpe.encoder import FastEncoder
from training.fast_bpe.tables import byte_spellings
from training.tokenizer import Tokenizer, load_tokenizer
from training.tokenizer_training import train_tokenizer

SEQ_LEN = 2048
VOCAB_SIZE = 32_000
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATHOLOGICAL = {"word": "ab", "letter": "a", "spaces": " ", "ideographs": "漢", "signs": "=-"}


def read_texts(path: Path, megabytes: float) -> list[str]:
    """The first texts of a file, up to about so many MB."""
    texts: list[str] = []
    size = 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if size > megabytes * 1e6:
                break
    return texts


def packed(tokens: Sequence[np.ndarray], tokenizer: Tokenizer) -> np.ndarray:
    """Rows to train on, ``[rows, SEQ_LEN + 1]``."""
    framing = framing_of(tokenizer)
    return np.concatenate(list(row_blocks([token_stream(tokens, framing)], framing, SEQ_LEN)))


def split(encoder: FastEncoder, tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Tokens of each text."""
    tokens, counts = encoder.encode(texts, tokenizer.token_dtype)
    return np.split(tokens, np.cumsum(counts)[:-1])


def seconds_of(function: Callable[[], object]) -> float:
    """Seconds of the processor that one call takes."""
    began = time.process_time()
    function()
    return time.process_time() - began


class Tiktoken:
    """The worker in the other environment."""

    def __init__(self, python: str, tokenizer: Tokenizer, texts: list[str], folder: Path) -> None:
        spec = json.loads((tokenizer.directory / "tokenizer.json").read_text("utf-8"))
        byte_of = {character: byte for byte, character in enumerate(byte_spellings())}
        special = {token["content"] for token in spec["added_tokens"]}
        ranks = {
            bytes(byte_of[c] for c in token).hex(): token_id
            for token, token_id in spec["model"]["vocab"].items()
            if token not in special
        }
        self._tokens, documents = folder / "tokens.npy", folder / "documents.json"
        documents.write_text(json.dumps(texts), "utf-8")
        script = Path(__file__).with_name("peer_tiktoken.py")
        self._worker = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(
            json.dumps(
                {
                    "ranks": ranks,
                    "pattern": GPT2,
                    "documents": str(documents),
                    "start_id": tokenizer.start_id,
                    "seq_len": SEQ_LEN,
                    "tokens": str(self._tokens),
                }
            )
        )

    def _say(self, line: str) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.write(f"{line}\n")
        self._worker.stdin.flush()

    def round(self) -> float:
        """Seconds of the processor that one round took there."""
        assert self._worker.stdout is not None
        self._say("go")
        took = float(self._worker.stdout.readline())
        self._worker.stdout.readline()
        return took

    def stream(self) -> np.ndarray:
        """All tokens of the last round."""
        return np.load(self._tokens)

    def stop(self) -> None:
        """End the worker."""
        self._worker.communicate()


def compare(
    name: str, texts: list[str], tokenizer: Tokenizer, tiktoken: str, *, rounds: int
) -> None:
    """Print the row of one corpus."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    path = tokenizer.directory / "tokenizer.json"
    slow = tokenizer.encode_batch(texts)
    quick = split(FastEncoder(tokenizer.encoder, path), tokenizer, texts)
    equal = sum(np.array_equal(a, b) for a, b in zip(slow, quick, strict=True))
    seconds: dict[str, list[float]] = {"ours, cold": [], "ours": [], "tokenizers": []}
    with tempfile.TemporaryDirectory() as folder:
        peer = Tiktoken(tiktoken, tokenizer, texts, Path(folder)) if tiktoken else None
        for _ in range(rounds):
            ours = FastEncoder(tokenizer.encoder, path)
            for way in ("ours, cold", "ours"):
                began = time.process_time()
                packed(split(ours, tokenizer, texts), tokenizer)
                seconds[way].append(time.process_time() - began)
            took = seconds_of(lambda: packed(tokenizer.encode_batch(texts), tokenizer))
            seconds["tokenizers"].append(took)
            if peer:
                seconds.setdefault("tiktoken", []).append(peer.round())
        same = ""
        if peer:
            stream = token_stream(slow, framing_of(tokenizer))
            theirs = peer.stream()
            same = f", tiktoken's stream {'equal' if np.array_equal(stream, theirs) else 'differs'}"
            peer.stop()
    print(f"{name}: {megabytes:.1f} MB, {equal} of {len(texts)} documents equal{same}")
    for way, times in seconds.items():
        rates = [megabytes / took for took in times]
        ratios = [took / mine for took, mine in zip(times, seconds["ours"], strict=True)]
        print(
            f"  {way}: median {statistics.median(rates):.1f} MB/s "
            f"({min(rates):.1f} to {max(rates):.1f}); takes {statistics.median(ratios):.1f} times "
            f"ours ({min(ratios):.1f} to {max(ratios):.1f})",
            flush=True,
        )


def grow(tokenizer: Tokenizer) -> None:
    """Print how the time grows with one piece of a text."""
    encoder = FastEncoder(tokenizer.encoder, tokenizer.directory / "tokenizer.json")
    for name, unit in PATHOLOGICAL.items():
        line: list[str] = []
        for size in (250_000, 1_000_000, 4_000_000):
            text = unit * (size // len(unit.encode()))
            times: list[float] = []
            for _ in range(3):
                began = time.process_time()
                encoder.encode([text], "uint16")
                times.append(time.process_time() - began)
            line.append(f"{size / 1e6:g} MB {min(times) * 1e3:.0f} ms")
        print(f"  {name}: {', '.join(line)}", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path, help="gzipped JSONL files with texts")
    parser.add_argument("--tiktoken", default="", help="python of an environment with tiktoken")
    parser.add_argument("--megabytes", type=float, default=6.0, help="of each file")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    print(f"{platform.processor() or platform.machine()}, {platform.platform()}, one core")
    texts = {path: read_texts(path, arguments.megabytes) for path in arguments.corpora}
    with tempfile.TemporaryDirectory() as folder:
        some = (text for path in texts for text in texts[path][: len(texts[path]) // 3])
        train_tokenizer(some, Path(folder), vocab_size=VOCAB_SIZE)
        tokenizer = load_tokenizer(Path(folder))
        for call in ("first", "second"):
            took = seconds_of(lambda: certified_encoder(tokenizer, Path(folder) / "certified"))
            print(f"the {call} certified_encoder: {took:.1f} s")
        for path, documents in texts.items():
            compare(path.name, documents, tokenizer, arguments.tiktoken, rounds=arguments.rounds)
        print("growth of one piece:")
        grow(tokenizer)


if __name__ == "__main__":
    main()
