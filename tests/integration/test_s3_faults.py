"""S3 behind a network and a server that misbehave: the same state at the end as without faults."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import AlreadyExistsError, ConflictError, CorruptError, UnavailableError
from storage.objects import ObjectStore, open_store
from storage.s3 import open_bucket
from storage.s3_client import current_client, forget_client
from storage.s3_retry import Retry
from tests.integration.servers.fault_proxy import PASSING, FaultProxy
from tests.storage.crash_contract import SCENES, state_of
from tests.storage.store_contract import StoreContract, in_threads
from tests.training.tiny_run import MODEL, tensors_of, tiny_plan
from training.checkpoint.index import latest
from training.checkpoint.state import TrainState, save
from training.decoder.model import Decoder
from training.optim import build_optimizer

pytestmark = pytest.mark.integration

LARGE_BYTES = 12 << 20
SEEDS = range(4)


@pytest.fixture
def store(s3_root: str, fault_proxy: FaultProxy) -> ObjectStore:
    return open_store(s3_root)


@pytest.fixture
def large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The smallest part that S3 takes, so that a file of 12 MiB has three.
    monkeypatch.setattr("storage.s3_transfer.PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    block = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
    path.write_bytes(block * (LARGE_BYTES // len(block)))
    return path


def contents(store: ObjectStore) -> dict[str, str]:
    return {
        info.key: hashlib.sha256(store.get(info.key)).hexdigest() for info in store.list("work")
    }


def work(store: ObjectStore, large_file: Path) -> None:
    """Every verb, in the ways that our code uses them."""
    for number in range(6):
        store.put(f"work/data/{number}", bytes([number]) * 1000)
        store.put_if_absent(f"work/heads/{number}", f"head {number}".encode())
        assert store.get(f"work/data/{number}", start=10, length=5) == bytes([number]) * 5
    with pytest.raises(AlreadyExistsError, match="already exists"):
        store.put_if_absent("work/heads/0", b"another")
    store.put("work/counter", b"0")
    for _ in range(8):
        body, etag = store.get_with_etag("work/counter")
        store.put_if_match("work/counter", str(int(body) + 1).encode(), etag)
    with pytest.raises(ConflictError, match="changed since it was read"):
        store.put_if_match("work/counter", b"99", "an old tag")
    store.put_file("work/large", large_file)
    copy = large_file.with_name("copy")
    store.get_file("work/large", copy)
    assert copy.read_bytes() == large_file.read_bytes()
    for number in range(3):
        store.delete(f"work/data/{number}")
    assert not store.exists("work/data/0")
    assert store.exists("work/data/3")


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_at_random_change_nothing_of_the_result(
    s3_root: str, store: ObjectStore, fault_proxy: FaultProxy, large_file: Path, seed: int
) -> None:
    quiet = open_store(f"{s3_root}/quiet")
    work(quiet, large_file)
    num_quiet = len(fault_proxy.log())
    noisy = open_store(f"{s3_root}/noisy")
    fault_proxy.scatter(PASSING, rate=0.3, seed=seed)
    work(noisy, large_file)
    log = fault_proxy.log()
    fault_proxy.script([])
    assert contents(noisy) == contents(quiet)
    assert contents(noisy)["work/counter"] == hashlib.sha256(b"8").hexdigest()
    suffered = [fault for _, _, fault in log if fault]
    assert len(set(suffered)) > 5
    # Each fault costs an attempt and at most two looks at what is there; nothing multiplies.
    assert len(log) <= num_quiet + 3 * len(suffered)


VERBS: dict[str, Callable[[ObjectStore, str], object]] = {
    "put": lambda store, _: store.put("work/a", b"new"),
    "put_if_absent": lambda store, _: store.put_if_absent("work/b", b"new"),
    "put_if_match": lambda store, etag: store.put_if_match("work/a", b"new", etag),
    "get": lambda store, _: store.get("work/a"),
    "list": lambda store, _: [info.key for info in store.list("work")],
    "delete": lambda store, _: store.delete("work/a"),
    "exists": lambda store, _: store.exists("work/a"),
}


@pytest.mark.parametrize("fault", [*PASSING, "altered request", "hang"])
def test_every_verb_survives_every_fault_twice_in_a_row(
    s3_root: str, fault_proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3_client._READ_TIMEOUT_SECONDS", 0.5)
    forget_client(current_client())
    ends: dict[str, list[object]] = {"quiet": [], "noisy": []}
    for place, found in ends.items():
        for name, verb in VERBS.items():
            store = open_store(f"{s3_root}/{place}-{name}")
            store.put("work/a", b"old")
            _, etag = store.get_with_etag("work/a")
            fault_proxy.script([fault] * 2 if place == "noisy" else [])
            answer = verb(store, etag)
            assert (fault in {row[2] for row in fault_proxy.log()}) == (place == "noisy")
            fault_proxy.script([])
            found.append((name, None if name == "put_if_match" else answer, contents(store)))
    assert ends["noisy"] == ends["quiet"]
    forget_client(current_client())


def test_a_counter_is_exact_while_half_of_the_answers_are_lost(
    store: ObjectStore, fault_proxy: FaultProxy
) -> None:
    fault_proxy.scatter(["reset after", "500 after", "cut answer", "twice"], rate=0.5, seed=5)
    StoreContract().test_a_counter_loses_nothing(store, in_threads)
    suffered = [method for method, _, fault in fault_proxy.log() if fault]
    assert suffered.count("PUT") > 50


@pytest.mark.parametrize("name", ["refresh", "verdict"])
def test_a_refresh_and_a_verdict_under_faults_end_in_the_same_head(
    s3_root: str, fault_proxy: FaultProxy, name: str
) -> None:
    scene, states = SCENES[name], []
    for place in ("quiet", "noisy"):
        store = open_store(f"{s3_root}/{place}")
        scene.before(store)
        if place == "noisy":
            fault_proxy.scatter(PASSING, rate=0.3, seed=7)
        scene.action(store)
        fault_proxy.script([])
        states.append(state_of(store))
    assert states[0] == states[1]


def test_checkpoints_saved_under_faults_are_those_saved_without(
    store: ObjectStore, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    plan, uri = tiny_plan(tmp_path / "local")
    model = Decoder(MODEL, seed=plan.seed)
    state = TrainState(model=model, optimizer=build_optimizer(model, plan.optimizer), step=3)
    quiet = open_store(uri)
    expected = tensors_of(quiet, save(quiet, plan, state, {}, tmp_path / "quiet"))
    fault_proxy.scatter(PASSING, rate=0.3, seed=3)
    saved = save(store, plan, state, {}, tmp_path / "noisy")
    assert latest(store, plan.checkpoint_prefix) == saved
    found = tensors_of(store, saved)
    assert len({fault for *_, fault in fault_proxy.log()}) > 2
    assert found == expected


class TestContractUnderFaults(StoreContract):
    """The whole contract, races and counters included, while a tenth of the requests suffers."""

    @pytest.fixture(autouse=True)
    def _faults(self, fault_proxy: FaultProxy) -> None:
        fault_proxy.scatter(PASSING, rate=0.1, seed=11)


def test_an_outage_ends_in_one_error_that_a_retry_may_mend(
    s3_root: str, fault_proxy: FaultProxy
) -> None:
    store = open_bucket(s3_root, Retry(budget_seconds=1.0))
    fault_proxy.scatter(["503"], rate=1.0, seed=0)
    with pytest.raises(UnavailableError, match="the last time it answered 503 SlowDown") as caught:
        store.put_if_absent("a", b"one")
    assert isinstance(caught.value, ConnectionError)
    assert 3 <= len(fault_proxy.log()) <= 40


def test_nothing_but_our_own_retry_repeats_a_request(s3_root: str, fault_proxy: FaultProxy) -> None:
    store = open_bucket(s3_root, Retry(budget_seconds=0.0))
    fault_proxy.scatter(["503", "500", "reset before"], rate=1.0, seed=0)
    for number in range(9):
        with pytest.raises(UnavailableError, match="no success in all attempts"):
            store.put(f"{number}", b"one")
    assert len(fault_proxy.log()) == 9


def test_bytes_altered_on_the_way_down_are_read_again_and_then_told(
    store: ObjectStore, s3_root: str, fault_proxy: FaultProxy, large_file: Path, tmp_path: Path
) -> None:
    store.put("a", b"one")
    store.put_file("large", large_file)
    fault_proxy.script(["altered answer"])
    assert store.get("a") == b"one"
    assert [fault for *_, fault in fault_proxy.log()] == ["altered answer", ""]
    # Any range of a large file: its parts together must give the tag that the store has.
    fault_proxy.script(["", "altered answer"])
    store.get_file("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large_file.read_bytes()
    fault_proxy.scatter(["altered answer"], rate=1.0, seed=0)
    brief = open_bucket(s3_root, Retry(budget_seconds=0.5))
    with pytest.raises(CorruptError, match="a came with MD5"):
        brief.get("a")
    with pytest.raises(CorruptError, match="large came with the tag"):
        brief.get_file("large", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_failed_upload_leaves_neither_an_object_nor_parts(
    s3_root: str, fault_proxy: FaultProxy, large_file: Path
) -> None:
    store = open_bucket(s3_root, Retry(budget_seconds=0.3))
    fault_proxy.script(["", *["503"] * 60])
    with pytest.raises(UnavailableError, match="upload part"):
        store.put_file("large", large_file)
    fault_proxy.script([])
    assert not store.exists("large")
    # What could not be dropped while the store was away is dropped by gc.
    store.abort_uploads("large", older_than=9e12)
    assert store.abort_uploads("large", older_than=9e12) == 0
