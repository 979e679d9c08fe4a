"""The quality classifier beside scikit-learn's logistic regression, and megabytes a second.

Documents are pieces cut at random places of the given corpora. The good ones are of the first
corpus; the random ones of all the others, with a share of good ones among them, as random text has.
Both sides learn from the same documents and the same hashed words and pairs, and are asked which
of a good and a bad document is the better one (area under the curve), on documents that nobody
learned from. scikit-learn may choose its penalty by the answers, which ours may not.
"""

# ruff: noqa: T201  a script for people

import argparse
import gzip
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tasks.curation.linear import bucket_of_pair
from tasks.curation.normalise import normalise
from tasks.curation.quality import score_quality, train_quality
from tasks.near_duplicates.units import units_of

PENALTIES = (10.0, 100.0, 1000.0)
BITS = 18


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path, help="JSONL, gzip, with a field text")
    parser.add_argument("others", nargs="+", type=Path)
    parser.add_argument("--pieces", type=int, default=4000, help="of each kind, at most")
    parser.add_argument("--characters", type=int, default=2000, help="of a piece, at most")
    parser.add_argument("--good-share", type=float, default=0.3, help="of the random documents")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("| seed | documents | ours | scikit-learn, best penalty | train s | theirs s | MB/s |")
    print("|" + " --- |" * 7)
    for seed in range(arguments.seeds):
        _measure(seed, arguments)


def _measure(seed: int, arguments: argparse.Namespace) -> None:
    rng = random.Random(seed)
    good = _pieces([arguments.reference], arguments, rng)
    bad = _pieces(arguments.others, arguments, rng)
    asked_good, good = good[: len(good) // 4], good[len(good) // 4 :]
    asked_bad, bad = bad[: len(bad) // 4], bad[len(bad) // 4 :]
    hidden = good[: int(arguments.good_share * min(len(good), len(bad)))]
    good, mixed = good[len(hidden) :], bad[len(hidden) :] + hidden
    started_at = time.process_time()
    model = train_quality(good, mixed)
    ours_s = time.process_time() - started_at
    asked = asked_good + asked_bad
    is_good = np.arange(len(asked)) < len(asked_good)
    score_quality(asked[:1], model)
    started_at = time.process_time()
    scores = score_quality(asked, model)["quality_score"]
    seconds = time.process_time() - started_at
    rate = sum(len(text.encode()) for text in asked) / 1e6 / seconds
    features = _features(good + mixed)
    targets = np.arange(len(good) + len(mixed)) < len(good)
    started_at = time.process_time()
    theirs = 0.0
    for penalty in PENALTIES:
        peer = LogisticRegression(C=penalty, max_iter=1000, class_weight="balanced")
        peer.fit(features, targets)
        theirs = max(theirs, _auc(peer.decision_function(_features(asked)), is_good))
    theirs_s = time.process_time() - started_at
    documents = f"{len(good):,} and {len(mixed):,}, asked of {len(asked):,}"
    cells = f"{_auc(scores, is_good):.4f} | {theirs:.4f} | {ours_s:.2f} | {theirs_s:.1f}"
    print(f"| {seed} | {documents} | {cells} | {rate:.0f} |")


def _pieces(
    corpora: Sequence[Path], arguments: argparse.Namespace, rng: random.Random
) -> list[str]:
    """Pieces from all over the corpora, a few of a long document, in random order."""
    pieces: list[str] = []
    for corpus in corpora:
        with gzip.open(corpus, "rt", encoding="utf-8") as file:
            for line in file:
                text = normalise(json.loads(line)["text"])
                for _ in range(min(10, 1 + len(text) // 20_000)):
                    start = rng.randrange(max(1, len(text) - arguments.characters))
                    end = start + rng.randint(arguments.characters // 8, arguments.characters)
                    pieces.append(text[start:end])
    rng.shuffle(pieces)
    return pieces[: arguments.pieces]


def _features(texts: Sequence[str]) -> scipy.sparse.csr_matrix:
    """The share of each bucket among the words and pairs of a document."""
    units, ends = units_of(texts)
    shift = np.uint64(64 - BITS)
    columns: list[NDArray[np.int64]] = []
    start = 0
    for end in ends.tolist():
        pairs = [
            bucket_of_pair(units[place - 1], units[place], shift) for place in range(start + 1, end)
        ]
        columns.append(
            np.concatenate([units[start:end] >> shift, np.array(pairs)]).astype(np.int64)
        )
        start = end
    lengths = [len(each) for each in columns]
    values = np.concatenate([np.full(count, 1 / max(count, 1)) for count in lengths])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    shape = (len(texts), 1 << BITS)
    found = scipy.sparse.csr_matrix((values, np.concatenate(columns), bounds), shape=shape)
    found.sum_duplicates()
    return found


def _auc(scores: NDArray[np.float64], is_good: NDArray[np.bool_]) -> float:
    good, bad = scores[is_good], np.sort(scores[~is_good])
    ties = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")
    return float(ties.sum() / (2 * len(good) * len(bad)))


if __name__ == "__main__":
    main()
