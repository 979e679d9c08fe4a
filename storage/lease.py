"""The lease: at most one update of a lineage at a time, with a fencing token.

The object ``lease.json`` is never removed, so its token only rises over the lineage's life. The
lease keeps two updates from doing the same work twice; what keeps the state right is the token,
which ``storage.head.commit`` compares with the parent's.
"""

import contextlib
import logging
import os
import threading
import time
from dataclasses import replace
from types import TracebackType

from storage.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    StorageError,
)
from storage.head import read_head
from storage.layout import Layout
from storage.lease_record import LeaseRecord, is_held, new_record, read_stored
from storage.manifest import readable_json
from storage.objects import ObjectStore, probe

logger = logging.getLogger(__name__)

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 5.0
_TOKEN_GAP = 1000
"""Added to the newest head's token when the lease's own is lost: more than the number of holders in
a row that committed nothing."""


class Lease:
    """A held lease, renewed by a daemon thread every third of ``ttl_seconds``; a context manager.

    Not to be used after a fork: the child has no renewal thread and must acquire its own.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        record: LeaseRecord,
        etag: str,
        *,
        ttl_seconds: float,
    ) -> None:
        self._store = store
        self._layout = layout
        self._record = record
        self._etag = etag
        self._ttl_seconds = ttl_seconds
        self._is_lost = False
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._renew_until_stopped, name=f"lease-{layout.lineage}", daemon=True
        )
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        store: ObjectStore,
        layout: Layout,
        holder: str,
        *,
        ttl_seconds: float = 60,
        wait_seconds: float = 0,
        note: str = "",
    ) -> "Lease":
        """Take the lineage's lease, waiting up to ``wait_seconds`` for it.

        A lease is free when it was released, when it expired, or when its holder was a process of
        this host that no longer lives. A damaged one is replaced when nobody mended it for
        ``ttl_seconds``, which are waited for. Safe to retry.

        Raises:
            LeaseHeldError: Names the holder, since when, and what to do.
        """
        deadline = time.monotonic() + wait_seconds
        poll_seconds = _FIRST_POLL_SECONDS
        while True:
            try:
                stored = read_stored(store, layout)
            except CorruptError as error:
                _replace_damaged(store, layout, ttl_seconds, error)
                continue
            if stored is None:
                probe(store)
            if stored is None or not is_held(stored[0]):
                record = new_record(stored, holder, note, ttl_seconds)
                etag = _take(store, layout, record, stored)
                if etag is not None:
                    return cls(store, layout, record, etag, ttl_seconds=ttl_seconds)
            elif time.monotonic() >= deadline:
                raise _held_error(layout, stored[0])
            else:
                time.sleep(max(0.0, min(poll_seconds, deadline - time.monotonic())))
                poll_seconds = min(1.5 * poll_seconds, _LONGEST_POLL_SECONDS)

    @property
    def token(self) -> int:
        """Fencing token, higher than that of every earlier holder."""
        return self._record.token

    @property
    def note(self) -> str:
        """What this holder says it works on."""
        return self._record.note

    @property
    def unfinished(self) -> str:
        """What this holder, or one before it, has begun and not finished; else empty."""
        return self._record.unfinished

    def set_note(self, note: str, *, unfinished: str | None = None) -> None:
        """Say what is being worked on, e.g. the update id: unfinished until ``finish``.

        ``unfinished`` is what the next holder is to go on with, where it is not the same.

        Raises:
            LeaseLostError: The lease was taken over.
        """
        unfinished = note if unfinished is None else unfinished
        self._write(note=note, unfinished=unfinished, expires_at=time.time() + self._ttl_seconds)

    def finish(self) -> None:
        """Say that what was worked on is done.

        Raises:
            LeaseLostError: The lease was taken over.
        """
        self._write(note="", unfinished="", expires_at=time.time() + self._ttl_seconds)

    def check(self) -> None:
        """Confirm with the store that the lease is still ours.

        Raises:
            LeaseLostError: It was taken over; stop without writing anything more.
        """
        try:
            stored = read_stored(self._store, self._layout)
        except CorruptError:
            self._write(expires_at=time.time() + self._ttl_seconds)
            return
        if self._is_lost or stored is None or stored[0].nonce != self._record.nonce:
            self._is_lost = True
            raise self._lost_error()

    def release(self) -> None:
        """Give the lease back; one that was lost is left to its new holder. Safe to repeat."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join()
        try:
            self._write(holder="", note="", expires_at=0.0)
        except LeaseLostError as error:
            logger.warning("nothing to release: %s", error)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _write(
        self,
        *,
        expires_at: float,
        note: str | None = None,
        unfinished: str | None = None,
        holder: str | None = None,
    ) -> None:
        with self._mutex:
            if self._is_lost:
                raise self._lost_error()
            record = replace(
                self._record,
                expires_at=expires_at,
                note=self._record.note if note is None else note,
                unfinished=self._record.unfinished if unfinished is None else unfinished,
                holder=self._record.holder if holder is None else holder,
            )
            try:
                etag = _swap(self._store, self._layout, record, self._etag)
            except CorruptError:
                etag = self._mend(record)
            if etag is None:
                self._is_lost = True
                raise self._lost_error()
            self._record, self._etag = record, etag

    def _mend(self, record: LeaseRecord) -> str | None:
        """Write over a damaged lease while ours runs, for until then nobody may take it over."""
        if time.time() >= self._record.expires_at:
            return None
        logger.warning("%s is damaged; its holder writes it anew", self._layout.lease)
        try:
            _, etag = self._store.get_with_etag(self._layout.lease)
            return self._store.put_if_match(self._layout.lease, readable_json(record), etag)
        except (ConflictError, NotFoundError):
            return _own_etag(self._store, self._layout, record)

    def _renew_until_stopped(self) -> None:
        while not self._stopped.wait(self._ttl_seconds / 3):
            try:
                self._write(expires_at=time.time() + self._ttl_seconds)
            except LeaseLostError as error:
                logger.error("%s", error)  # noqa: TRY400  the message says it all
                return
            except (StorageError, OSError) as error:
                # The next attempt may come in time; if none does, the lease expires and check()
                # tells.
                logger.warning("could not renew the lease of %s: %s", self._layout.lineage, error)

    def _lost_error(self) -> LeaseLostError:
        return LeaseLostError(
            f"the lease of {self._layout.lineage} under token {self.token} was taken over by "
            "somebody else; stop, nothing of this update was committed, and start it again"
        )


def _replace_damaged(
    store: ObjectStore, layout: Layout, ttl_seconds: float, error: CorruptError
) -> None:
    """Put a free lease in the place of a damaged one that stays as it is for ``ttl_seconds``.

    A living holder mends it when it renews, well within that time.
    """
    logger.warning("%s; waiting %.0f s for a living holder first", error, ttl_seconds)
    with contextlib.suppress(ConflictError, NotFoundError):
        _, etag = store.get_with_etag(layout.lease)
        deadline = time.monotonic() + ttl_seconds
        while time.monotonic() < deadline:
            time.sleep(min(_FIRST_POLL_SECONDS, ttl_seconds))
            if store.get_with_etag(layout.lease)[1] != etag:
                return
        head = read_head(store, layout)
        free = LeaseRecord(
            token=(head.lease_token if head else 0) + _TOKEN_GAP,
            holder="",
            host="",
            machine="",
            pid=0,
            process_started="",
            acquired_at="",
            expires_at=0.0,
            note="",
            nonce=os.urandom(8).hex(),
        )
        store.put_if_match(layout.lease, readable_json(free), etag)


def _take(
    store: ObjectStore, layout: Layout, record: LeaseRecord, stored: tuple[LeaseRecord, str] | None
) -> str | None:
    """The entity tag of the lease that is now ours, None when somebody else was faster."""
    if stored is not None:
        return _swap(store, layout, record, stored[1])
    try:
        store.put_if_absent(layout.lease, readable_json(record))
    except AlreadyExistsError:
        return None
    return _own_etag(store, layout, record)


def _swap(store: ObjectStore, layout: Layout, record: LeaseRecord, etag: str) -> str | None:
    """Replace the lease; None when it is not the one that ``etag`` tells of any more."""
    try:
        return store.put_if_match(layout.lease, readable_json(record), etag)
    except (ConflictError, NotFoundError):
        stored = read_stored(store, layout)
        if stored is None or stored[0].nonce != record.nonce:
            return None
        if stored[0] == record:
            return stored[1]
        # An earlier write of ours, given up without an answer, has come through after all.
        return _swap(store, layout, record, stored[1])


def _own_etag(store: ObjectStore, layout: Layout, record: LeaseRecord) -> str | None:
    """The stored entity tag if ``record`` is stored: a write whose answer was lost is our own."""
    stored = read_stored(store, layout)
    return stored[1] if stored is not None and stored[0] == record else None


def _held_error(layout: Layout, record: LeaseRecord) -> LeaseHeldError:
    left_seconds = max(0.0, record.expires_at - time.time())
    work = f" on {record.note}" if record.note else ""
    return LeaseHeldError(
        f"{layout.lineage} is being updated by {record.holder} (process {record.pid} on "
        f"{record.host}){work} since {record.acquired_at}: wait until it is done, wait longer, "
        f"or end that process; its lease runs out in {left_seconds:.0f} s unless it is renewed"
    )
