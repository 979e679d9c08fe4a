"""What a person decides about a lineage: promote, reject, rollback, unhold. All of it is on record.

Each needs a reason and a name, commits one head, and is safe to run again after a crash: what is
done already is found and said. MLflow is told afterwards, by ``tasks.mirror``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from storage import taking_back, transitions
from storage.errors import NotFoundError
from storage.head import Head, VersionRecord, commit_change, read_head, read_head_number
from storage.layout import Layout
from storage.models import read_model_manifest
from storage.objects import ObjectStore
from tasks.publish import ExtendReplay

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a decision led to."""

    head: Head
    message: str
    """What changed and what happens next, for the person who decided."""


def promote(
    store: ObjectStore,
    layout: Layout,
    version: str,
    *,
    by: str,
    reason: str,
    extend_replay: ExtendReplay,
) -> Reviewed:
    """Make ``version`` the champion though no verdict published it, also after a FAIL.

    Raises:
        HeadMovedError: It was compared with another champion than today's.
        ValueError: No such version, no exported model, was published before, or no reason.
    """
    _check_told(by, reason)

    def change(head: Head) -> Head:
        # Tried first, so that a refusal does not leave a replay version behind.
        tried = transitions.promote(head, version, replay="untold", by=by, reason=reason)
        if tried == head:
            return head
        _check_exported(store, layout, version)
        replay = extend_replay(head, _record(tried, version).snapshots)
        return transitions.promote(head, version, replay=replay, by=by, reason=reason)

    before, head = _commit(store, layout, change)
    if head == before:
        return Reviewed(
            head, f"{version} is the champion of {layout.lineage} already; nothing changed"
        )
    record = _record(head, version)
    return _reviewed(
        head,
        f"{version} ({record.verdict}) is the champion of {layout.lineage} in place of "
        f"{record.parent or 'none'}; {_names(record.snapshots)} learned and in replay "
        f"{head.replay}; the next update continues from it; to undo: rollback",
    )


def reject(store: ObjectStore, layout: Layout, version: str, *, by: str, reason: str) -> Reviewed:
    """Decide against a version that awaits a decision.

    Raises:
        ValueError: No such version, it does not await a decision, or no reason.
    """
    _check_told(by, reason)
    _, head = _commit(
        store, layout, partial(transitions.reject, version=version, by=by, reason=reason)
    )
    record = _record(head, version)
    return _reviewed(
        head,
        f"{version} is rejected, the champion of {layout.lineage} stays {head.champion or 'none'}; "
        f"{_names(record.snapshots)} pending, the next update takes them again with what is new",
    )


def rollback(
    store: ObjectStore, layout: Layout, *, by: str, reason: str, to: str | None = None
) -> Reviewed:
    """Go back to an earlier champion with its trunk and replay; hold what was learned since.

    The same command again, by the same person for the same reason, finds its own head and does
    nothing: a retry after a crash never goes back twice. To go back further, name the version.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage.
        by: Who.
        reason: Why.
        to: Version to go back to; None: the previous champion.

    Raises:
        ValueError: There is no earlier champion, or no reason.
    """
    _check_told(by, reason)

    def change(head: Head) -> Head:
        moved = _last_move(store, layout, head)
        if to is None and (moved.action, moved.by, moved.reason) == ("rollback", by, reason):
            return head
        read = partial(read_head_number, store, layout)
        changed = taking_back.rollback(head, read, to=to, by=by, reason=reason)
        if changed.champion is not None:
            _check_exported(store, layout, changed.champion)
        return changed

    before, head = _commit(store, layout, change)
    if head == before:
        return Reviewed(
            head,
            f"{layout.lineage} is at {head.champion} already; nothing changed; name a version to "
            "go back further",
        )
    held = [known.id for known in head.snapshots if known.state == "held"]
    return _reviewed(
        head,
        f"{head.champion} is the champion of {layout.lineage} again, {before.champion} is rolled "
        f"back; {_names(held)} held: not trained on until unhold or another recipe",
    )


def unhold(store: ObjectStore, layout: Layout, snapshot: str, *, by: str, reason: str) -> Reviewed:
    """Let the next update train on a snapshot that a rollback held.

    Raises:
        ValueError: No such snapshot, it is not held, or no reason.
    """
    _check_told(by, reason)
    _, head = _commit(
        store, layout, partial(taking_back.unhold, snapshot=snapshot, by=by, reason=reason)
    )
    return _reviewed(head, f"{snapshot} is pending again: the next update trains on it")


def _record(head: Head, version: str) -> VersionRecord:
    return next(known for known in head.versions if known.version == version)


def _last_move(store: ObjectStore, layout: Layout, head: Head) -> Head:
    """The head that made today's champion the champion; a refresh since then does not matter."""
    moved = head
    while moved.number > 1:
        parent = read_head_number(store, layout, moved.number - 1)
        if parent.champion != head.champion:
            break
        moved = parent
    return moved


def _commit(
    store: ObjectStore, layout: Layout, change: Callable[[Head], Head]
) -> tuple[Head, Head]:
    """The head that was decided on and the one that came of it; equal when nothing changed."""
    if read_head(store, layout) is None:
        raise NotFoundError(
            f"{layout.lineage} has no head in {store.uri}: nothing to decide on; check the names "
            "of lineage and store"
        )

    seen: list[Head] = []

    def on_existing(head: Head | None) -> Head:
        # Heads are never removed, so the one read above is still there.
        assert head is not None
        seen.append(head)
        return change(head)

    head = commit_change(store, layout, on_existing)
    return seen[-1], head


def _check_told(by: str, reason: str) -> None:
    for name, value in (("by", by), ("reason", reason)):
        if not value.strip():
            raise ValueError(
                f"a decision needs a non-empty {name}: it is kept with the model for ever"
            )


def _check_exported(store: ObjectStore, layout: Layout, version: str) -> None:
    try:
        read_model_manifest(store, layout.model(version))
    except NotFoundError as error:
        raise ValueError(
            f"{version} cannot be the champion: there is no exported model under "
            f"{layout.model(version)}; run its update again, which exports it"
        ) from error


def _reviewed(head: Head, message: str) -> Reviewed:
    logger.info("head %d: %s", head.number, message)
    return Reviewed(head, message)


def _names(snapshots: tuple[str, ...] | list[str]) -> str:
    if not snapshots:
        return "no snapshot is"
    return f"{', '.join(snapshots)} {'is' if len(snapshots) == 1 else 'are'}"
