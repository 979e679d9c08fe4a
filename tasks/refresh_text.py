"""What a refresh has done, in words."""

import logging

from storage.head import Head
from storage.snapshots import SnapshotManifest
from tasks.refresh_progress import told_reasons
from tasks.refresh_request import RefreshResult

logger = logging.getLogger(__name__)

_MOST_REASONS = 5


def warned_of(rejects: str) -> tuple[str, ...]:
    """The sentence on rejects, if there is one, which is logged as well."""
    if not rejects:
        return ()
    logger.warning("%s", rejects)
    return (rejects,)


def describe_snapshot(manifest: SnapshotManifest) -> str:
    """A minted snapshot in one sentence."""
    train = sum(domain.train_tokens for domain in manifest.domains)
    held = sum(domain.holdout_tokens for domain in manifest.domains)
    names = ", ".join(domain.domain for domain in manifest.domains)
    return (
        f"snapshot {manifest.id} of {names}: {train:,} tokens to train on, {held:,} held out, "
        f"from {manifest.documents_read:,} documents{describe_drops(manifest.documents_dropped)}"
    )


def describe_drops(dropped: dict[str, int]) -> str:
    """How many were dropped and why, the most frequent reasons first; "" when none were."""
    if not dropped:
        return ""
    return f"; {sum(dropped.values()):,} were dropped ({told_reasons(dropped, _MOST_REASONS)})"


def committed_result(manifest: SnapshotManifest, head: Head, reason: str) -> RefreshResult:
    """What a refresh answers that committed ``manifest`` on ``head``."""
    domains = manifest.domains
    return RefreshResult(
        snapshot=manifest.id,
        head=head.number,
        reason=reason,
        documents_read=manifest.documents_read,
        documents_dropped=manifest.documents_dropped,
        lines_rejected=manifest.lines_rejected,
        train_documents=sum(domain.train_documents for domain in domains),
        train_tokens=sum(domain.train_tokens for domain in domains),
        holdout_documents=sum(domain.holdout_documents for domain in domains),
        holdout_tokens=sum(domain.holdout_tokens for domain in domains),
    )
