"""Whether a candidate still writes, beside its champion on the same openings. Values, no I/O.

Repetition is the regression that continued pretraining leaves most often, and a held-out loss does
not show it. A handful of continuations cannot show a small regression, so only a gross one is held
against a candidate; the figures are for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_PERPLEXITY_RATIO = 100.0
"""Two orders of magnitude, 4.6 nats per token."""
LOOPING = 0.8
"""A continuation of which at least this share of 4-grams was there before says the same again."""
_NEARLY_ALL = 0.9
_NEARLY_NONE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How one model continues openings, always with the likeliest token."""

    rep_2: float | None
    """1 - distinct / all 2-grams of tokens, mean over continuations; None when all are shorter."""
    rep_4: float | None
    rep_8: float | None
    looping_share: float
    """Continuations of which at least ``LOOPING`` of the 4-grams are repeats."""
    end_share: float
    """Continuations that came to the end of their text before they were cut off."""
    empty_share: float
    """Continuations that ended before their first token."""
    mean_tokens: float
    """Written, the end of the text not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySlice:
    """Both models on a few held-out passages of one slice."""

    slice: str
    """``<domain>@<snapshot>``."""
    targets: int
    candidate_nats_per_token: float | None
    """None where it is not a finite number."""
    champion_nats_per_token: float | None
    """None for a first version, too."""
    perplexity_ratio: float | None
    """Of the candidate's perplexity to the champion's: 1 is no change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Has the model collapsed? A few passages of every slice, looked at before all else."""

    max_perplexity_ratio: float
    """Above this on any slice, nothing more is computed."""
    passages: int
    """Of all slices together."""
    slices: tuple[CanarySlice, ...]
    new_change: float | None = None
    """Candidate minus champion on the passages of new text, nats per token; None without any."""

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" when nothing is. An average would hide a single slice.

        A model that learned the new text has not collapsed, however much it forgot: what that is
        worth the whole judgement says, and a remedy may repair it.
        """
        broken = [item.slice for item in self.slices if item.candidate_nats_per_token is None]
        if broken:
            return f"the candidate's loss on {broken[0]} is not a finite number"
        exploded = [
            item
            for item in self.slices
            if (item.perplexity_ratio or 0.0) > self.max_perplexity_ratio
        ]
        if not exploded or (self.new_change is not None and self.new_change < 0):
            return ""
        worst = max(exploded, key=lambda item: (item.perplexity_ratio or 0.0, item.slice))
        others = f", and {len(exploded) - 1} more" if len(exploded) > 1 else ""
        return (
            f"the candidate has collapsed on {worst.slice}{others}: "
            f"{worst.candidate_nats_per_token:.2f} nats per token, {worst.perplexity_ratio:,.0f} "
            f"times the champion's perplexity (above {self.max_perplexity_ratio:g} it counts as "
            "collapsed), and has not learned the new data"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the candidate still writes: greedy continuations of some held-out openings."""

    finite: bool
    """All logits of all continuations were numbers."""
    probes: int = 0
    """Continuations tried."""
    empty: int = 0
    """Continuations that ended before their first token."""
    distinct_token_share: float | None = None
    """Distinct tokens over all tokens, mean over continuations; low is repetition. Not judged."""
    candidate: Writing | None = None
    champion: Writing | None = None
    """On the same openings; None for a first version."""
    canary: Canary | None = None
    """What came before everything else; None where it was not looked at."""

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" when nothing is."""
        if self.canary is not None and self.canary.problem:
            return self.canary.problem
        if not self.finite:
            return "the candidate's logits are not finite numbers"
        before = self.champion
        was_mute = before is not None and before.empty_share == 1.0
        if self.probes and self.empty == self.probes and not was_mute:
            return f"the candidate writes nothing: all {self.probes} continuations end at once"
        if self.candidate is None or before is None:
            return ""
        return _gross_regression(self.candidate, before)


def writing_of(continuations: Sequence[Sequence[int]], ended: Sequence[bool]) -> Writing:
    """What continuations are like. Pure.

    Args:
        continuations: Token ids, without the token that ended the text; at least one.
        ended: By continuation, whether it came to that token.
    """
    count = len(continuations)
    fours = [repetition(tokens, 4) for tokens in continuations]
    return Writing(
        rep_2=_mean([repetition(tokens, 2) for tokens in continuations]),
        rep_4=_mean(fours),
        rep_8=_mean([repetition(tokens, 8) for tokens in continuations]),
        looping_share=sum(rep is not None and rep >= LOOPING for rep in fours) / count,
        end_share=sum(ended) / count,
        empty_share=sum(not tokens for tokens in continuations) / count,
        mean_tokens=sum(map(len, continuations)) / count,
    )


def repetition(tokens: Sequence[int], length: int) -> float | None:
    """``1 - distinct / all`` runs of ``length`` tokens; None when there is no such run."""
    runs = [tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else None


def _gross_regression(now: Writing, before: Writing) -> str:
    """From hardly ever to nearly always: the only regression that so few continuations show."""
    if now.looping_share >= _NEARLY_ALL and before.looping_share <= _NEARLY_NONE:
        return (
            f"the candidate repeats itself: {now.looping_share:.0%} of its continuations are "
            f"loops, {before.looping_share:.0%} of the champion's were"
        )
    if now.end_share <= _NEARLY_NONE and before.end_share >= _NEARLY_ALL:
        return (
            f"the candidate does not end its texts: {now.end_share:.0%} of its continuations came "
            f"to an end, {before.end_share:.0%} of the champion's did"
        )
    return ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
