"""What an update has by heart, as values; ``tasks.evaluations.copy_probe`` finds them."""

from dataclasses import dataclass

_JUMP_NATS = 0.5
"""Memorised, nats per token: more than an update learns of a domain as a whole."""
_JUMP_SHARE = 0.1
"""Of documents, written on by heart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRow:
    """Documents that were seen about equally often, and as many held-out ones like them."""

    seen_from: int
    """Times that the update has seen each, at least."""
    seen_to: int
    """At most."""
    documents: int
    nats_per_token: float
    """Of the candidate, on what follows the beginning of seen documents."""
    held_out_nats_per_token: float
    """The same on held-out ones."""
    copied_share: float
    """Seen documents that the candidate continues word for word."""
    held_out_copied_share: float
    champion_gap: float | None = None
    """Held-out minus seen, in nats per token, of the champion, which has not seen them in this
    update: how much easier the seen ones are by themselves. None without a champion."""

    @property
    def memorised_nats_per_token(self) -> float:
        """How much likelier than held-out text the seen text is, beyond what the champion finds."""
        return self.held_out_nats_per_token - self.nats_per_token - (self.champion_gap or 0.0)

    @property
    def jumped(self) -> bool:
        """Whether a person should look: how often these documents were seen does harm."""
        copied = self.copied_share - self.held_out_copied_share
        return self.memorised_nats_per_token > _JUMP_NATS or copied > _JUMP_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProbe:
    """What an update has by heart, by how often it saw it."""

    prefix_tokens: int
    copied_tokens: int
    rows: tuple[CopyRow, ...]
    """Seldom seen first."""

    @property
    def warning(self) -> str:
        """For a person; "" when nothing jumps."""
        return "; ".join(
            f"text seen {row.seen_from} to {row.seen_to} times is memorised: "
            f"{row.memorised_nats_per_token:.2f} nats per token likelier than held-out text, "
            f"{row.copied_share:.0%} of {row.documents} documents are continued word for word"
            for row in self.rows
            if row.jumped
        )
