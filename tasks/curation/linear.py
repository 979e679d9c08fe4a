"""A linear classifier on hashed words and pairs of words, compiled; logistic loss.

The value of a document is the mean over its words and pairs of their weights (as in fastText,
Joulin et al. 2016, arXiv:1607.01759), so that it does not grow with the length. Nothing but
additions, multiplications, divisions and roots of float64 in a fixed order: the same bits on every
machine that keeps to IEEE 754.
"""

import math
from typing import Any

import numpy as np

from infra.compiled import compiled, compiled_inner

_PAIR_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_MIX_SHIFT = np.uint64(33)
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_FACTORIALS = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
_LARGEST = 40.0


@compiled_inner
def bucket_of_pair(first: Any, second: Any, shift: Any) -> Any:
    """Where the weight of two units in a row lies."""
    value = (first * _PAIR_STEP) ^ second
    value = (value ^ (value >> _MIX_SHIFT)) * _MIX_1
    value = (value ^ (value >> _MIX_SHIFT)) * _MIX_2
    return np.int64((value ^ (value >> _MIX_SHIFT)) >> shift)


@compiled_inner
def logistic(value: Any) -> Any:
    """``1 / (1 + exp(-value))`` by a series of its own: libraries differ in the last bit."""
    value = min(max(-value, -_LARGEST), _LARGEST)
    doublings = np.floor(value * _LOG2_E + 0.5)
    rest = (value - doublings * _LN2_HIGH) - doublings * _LN2_LOW
    power = 0.0
    for factor in _FACTORIALS:
        power = power * rest + factor
    return 1.0 / (1.0 + math.ldexp(power, int(doublings)))


@compiled
def values_of(units: Any, ends: Any, weights: Any, bias: Any, values: Any) -> Any:
    """The classifier's value (log odds) of each text.

    Args:
        units: ``uint64[units]``, of ``units_of``.
        ends: ``int64[texts]``, of the same.
        weights: ``float64[2 ** bits]``.
        bias: The value of a text without a word.
        values: ``float64[texts]``, written.
    """
    shift = np.uint64(64 - int(np.log2(len(weights))))
    start = 0
    for text in range(len(ends)):
        total = 0.0
        for place in range(start, ends[text]):
            total += weights[np.int64(units[place] >> shift)]
        for place in range(start + 1, ends[text]):
            total += weights[bucket_of_pair(units[place - 1], units[place], shift)]
        count = 2 * (ends[text] - start) - 1
        values[text] = bias + total / count if count > 0 else bias
        start = ends[text]


@compiled
def count_ngrams(units: Any, ends: Any, counts: Any) -> None:
    """Add to ``counts``, ``float64[2 ** bits]``, the words and pairs of all texts."""
    shift = np.uint64(64 - int(np.log2(len(counts))))
    start = 0
    for end in ends:
        for place in range(start, end):
            counts[np.int64(units[place] >> shift)] += 1
        for place in range(start + 1, end):
            counts[bucket_of_pair(units[place - 1], units[place], shift)] += 1
        start = end


@compiled
def fit(
    units: Any, ends: Any, targets: Any, masses: Any, rate: Any, passes: Any, weights: Any
) -> Any:
    """Fit ``weights``, which are 0 at first, and return the bias. By AdaGrad (Duchi et al. 2011).

    Args:
        units: ``uint64[units]`` of the texts in the order in which they are learned from.
        ends: ``int64[texts]``, where each ends.
        targets: ``float64[texts]``, 1 for a good document and 0 for another.
        masses: ``float64[texts]``, how much each counts.
        rate: Of learning.
        passes: Over all texts.
        weights: ``float64[2 ** bits]``, written.
    """
    shift = np.uint64(64 - int(np.log2(len(weights))))
    squares = np.full(len(weights), 1e-12)
    bias, bias_square = 0.0, 1e-12
    for _ in range(passes):
        start = 0
        for text in range(len(ends)):
            end = ends[text]
            count = 2 * (end - start) - 1
            if count <= 0:
                continue
            total = 0.0
            for place in range(start, end):
                total += weights[np.int64(units[place] >> shift)]
            for place in range(start + 1, end):
                total += weights[bucket_of_pair(units[place - 1], units[place], shift)]
            error = masses[text] * (logistic(bias + total / count) - targets[text])
            bias_square += error * error
            bias -= rate * error / np.sqrt(bias_square)
            step = error / count
            for place in range(start, end):
                bucket = np.int64(units[place] >> shift)
                squares[bucket] += step * step
                weights[bucket] -= rate * step / np.sqrt(squares[bucket])
            for place in range(start + 1, end):
                bucket = bucket_of_pair(units[place - 1], units[place], shift)
                squares[bucket] += step * step
                weights[bucket] -= rate * step / np.sqrt(squares[bucket])
            start = end
    return bias
