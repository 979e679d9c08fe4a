import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import CorruptError, LeaseHeldError, LeaseLostError, UnavailableError
from storage.head import commit
from storage.layout import Layout
from storage.lease import Lease
from storage.lease_record import LeaseRecord, read_lease
from storage.local_objects import LocalObjects
from storage.manifest import readable_json
from tests.storage.building import first_head
from tests.support.killing_store import KillingObjects, run_killed

LAYOUT = Layout("demo")


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def stored(store: LocalObjects) -> LeaseRecord:
    record = read_lease(store, LAYOUT)
    assert record is not None
    return record


def take_over(store: LocalObjects) -> LeaseRecord:
    record = replace(stored(store), token=stored(store).token + 1, holder="thief", nonce="other")
    store.put(LAYOUT.lease, readable_json(record))
    return record


def test_a_lease_is_held_by_one_and_its_token_rises(store: LocalObjects) -> None:
    for token in (1, 2, 3):
        with Lease.acquire(store, LAYOUT, "me@here", note="u1") as lease:
            assert lease.token == token
            assert lease.unfinished == ""
            lease.check()
            with pytest.raises(LeaseHeldError, match=r"updated by me@here .* on u1 since 20"):
                Lease.acquire(store, LAYOUT, "you@there")
        lease.release()
        assert stored(store).holder == ""


def test_of_racing_holders_one_gets_the_lease(store: LocalObjects) -> None:
    def attempt(name: str) -> Lease | None:
        try:
            return Lease.acquire(store, LAYOUT, name)
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [lease for lease in pool.map(attempt, "abcdefgh") if lease]
    assert len(held) == 1
    held[0].release()


def test_a_dead_process_of_this_host_loses_its_lease_at_once(store: LocalObjects) -> None:
    def die() -> None:
        lease = Lease.acquire(store, LAYOUT, "victim", ttl_seconds=3600)
        lease.set_note("update-7")
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_killed(die).killed
    with Lease.acquire(store, LAYOUT, "heir") as lease:
        assert lease.token == 2
        assert lease.unfinished == "update-7"


def test_what_is_unfinished_passes_from_holder_to_holder_until_one_finishes_it(
    store: LocalObjects,
) -> None:
    with Lease.acquire(store, LAYOUT, "first") as lease:
        lease.set_note("update-7")
    for name in ("reader", "heir"):
        with Lease.acquire(store, LAYOUT, name) as lease:
            assert (lease.unfinished, lease.note) == ("update-7", "")
    with Lease.acquire(store, LAYOUT, "heir") as lease:
        lease.set_note("update-8")
        lease.finish()
        assert stored(store).note == ""
    with Lease.acquire(store, LAYOUT, "next") as lease:
        assert lease.unfinished == ""


def test_a_reused_pid_is_not_the_holder(store: LocalObjects) -> None:
    with Lease.acquire(store, LAYOUT, "me"):
        mine = stored(store)
    store.put(LAYOUT.lease, readable_json(replace(mine, holder="old", expires_at=9e12)))
    with pytest.raises(LeaseHeldError, match="updated by old"):
        Lease.acquire(store, LAYOUT, "new")
    reused = replace(mine, holder="old", expires_at=9e12, process_started="1")
    store.put(LAYOUT.lease, readable_json(reused))
    Lease.acquire(store, LAYOUT, "new").release()


@pytest.mark.parametrize("machine", ["", "another boot/pid:[1]"])
def test_a_holder_elsewhere_is_trusted_until_its_lease_expires(
    store: LocalObjects, machine: str
) -> None:
    Lease.acquire(store, LAYOUT, "me").release()
    elsewhere = replace(
        stored(store), holder="far", machine=machine, pid=1, process_started="1", expires_at=9e12
    )
    store.put(LAYOUT.lease, readable_json(elsewhere))
    with pytest.raises(LeaseHeldError, match="wait until it is done"):
        Lease.acquire(store, LAYOUT, "me")
    store.put(LAYOUT.lease, readable_json(replace(elsewhere, expires_at=1.0, note="u9")))
    with Lease.acquire(store, LAYOUT, "me") as lease:
        # Of a holder whose version had no other word for it.
        assert lease.unfinished == "u9"
        assert lease.token == elsewhere.token + 1


def test_a_lease_that_was_taken_over_is_lost(store: LocalObjects) -> None:
    lease = Lease.acquire(store, LAYOUT, "me")
    thief = take_over(store)
    with pytest.raises(LeaseLostError, match="token 1 was taken over"):
        lease.check()
    with pytest.raises(LeaseLostError, match="token 1 was taken over"):
        lease.set_note("x")
    lease.release()
    assert stored(store) == thief


def test_the_renewal_thread_renews_and_notices_the_loss(store: LocalObjects) -> None:
    lease = Lease.acquire(store, LAYOUT, "me", ttl_seconds=0.15)
    before = stored(store).expires_at
    while stored(store).expires_at == before:
        pass
    lease.check()
    take_over(store)
    lease._thread.join(timeout=30)
    assert not lease._thread.is_alive()
    with pytest.raises(LeaseLostError, match="taken over"):
        lease.check()


def test_waiting_gets_the_lease_when_it_is_released(store: LocalObjects) -> None:
    lease = Lease.acquire(store, LAYOUT, "first")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Lease.acquire, store, LAYOUT, "second", wait_seconds=60)
        lease.release()
        second = waiting.result(timeout=60)
    assert second.token == 2
    second.release()


def test_waiting_ends_with_the_holder_named(store: LocalObjects) -> None:
    with (
        Lease.acquire(store, LAYOUT, "first"),
        pytest.raises(LeaseHeldError, match="updated by first"),
    ):
        Lease.acquire(store, LAYOUT, "second", wait_seconds=0.1)


def test_a_holder_without_a_name_is_refused(store: LocalObjects) -> None:
    with pytest.raises(ValueError, match="needs a holder's name"):
        Lease.acquire(store, LAYOUT, "")


class _LosingAnswers(KillingObjects):
    """Answers as a store does when the first answer was lost and the client asked again."""

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        super().put_if_match(key, body, etag)
        return super().put_if_match(key, body, etag)


def test_a_write_whose_answer_was_lost_is_our_own(store: LocalObjects) -> None:
    losing = _LosingAnswers(store)
    Lease.acquire(losing, LAYOUT, "me").release()
    with Lease.acquire(losing, LAYOUT, "me") as lease:
        lease.set_note("x")
        lease.check()
    assert stored(store).holder == ""


class _AwayAfter(KillingObjects):
    """Does one write, and is away before it can say so."""

    is_next = False

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        answer = super().put_if_match(key, body, etag)
        if self.is_next:
            self.is_next = False
            raise UnavailableError("no answer for as long as we tried")
        return answer


def test_a_renewal_that_was_given_up_and_came_through_costs_no_lease(store: LocalObjects) -> None:
    away = _AwayAfter(store)
    with Lease.acquire(away, LAYOUT, "me") as lease:
        away.is_next = True
        with pytest.raises(UnavailableError, match="no answer"):
            lease.set_note("lost")
        assert stored(store).note == "lost"
        lease.set_note("known")
        lease.check()
        assert stored(store).note == "known"
        away.is_next = True
        with pytest.raises(UnavailableError, match="no answer"):
            lease.set_note("lost again")
        take_over(store)
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.set_note("mine")


def damage(store: LocalObjects) -> bytes:
    body = store.get(LAYOUT.lease).replace(b'"token": ', b'"token": 9')
    store.put(LAYOUT.lease, body)
    return body


def test_a_damaged_lease_is_replaced_above_the_token_of_every_head(store: LocalObjects) -> None:
    commit(store, LAYOUT, replace(first_head(), lease_token=41))
    Lease.acquire(store, LAYOUT, "me").release()
    damage(store)
    with pytest.raises(
        CorruptError, match=r"lease\.json is damaged.* next update of demo replaces"
    ):
        read_lease(store, LAYOUT)
    started = time.monotonic()
    with Lease.acquire(store, LAYOUT, "heir", ttl_seconds=0.3) as lease:
        assert time.monotonic() - started >= 0.3
        assert lease.token > 41
        lease.check()


def test_a_living_holder_mends_its_lease_and_keeps_it(store: LocalObjects) -> None:
    with Lease.acquire(store, LAYOUT, "holder", ttl_seconds=0.6) as lease:
        damage(store)
        with pytest.raises(LeaseHeldError, match="updated by holder"):
            Lease.acquire(store, LAYOUT, "other", ttl_seconds=60)
        lease.check()
        damage(store)
        lease.check()
        assert stored(store).token == lease.token == 1


def test_a_holder_that_slept_does_not_mend_what_may_be_anothers(store: LocalObjects) -> None:
    lease = Lease.acquire(store, LAYOUT, "sleeper", ttl_seconds=3600)
    lease._record = replace(lease._record, expires_at=1.0)
    body = damage(store)
    with pytest.raises(LeaseLostError, match="taken over"):
        lease.check()
    lease.release()
    assert store.get(LAYOUT.lease) == body
