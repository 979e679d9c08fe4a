"""The three roles of infra/policies on a real gateway: what each may do, and what it may not."""

import json
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import pytest

from storage.errors import AccessError
from storage.gc import abort_unfinished, delete_garbage, find_garbage
from storage.head import read_head
from storage.manifest import publish
from storage.objects import ObjectStore, open_store, probe
from storage.s3_transfer import PART_BYTES
from tests.integration.servers.gateway import Gateway, User
from tests.storage.building import LAYOUT
from tests.storage.crash_contract import learn, refresh, roll_back, state_of

pytestmark = pytest.mark.integration

POLICIES = Path(__file__).parents[2] / "infra" / "policies"
ROLES = ("reader", "trainer", "publisher")


def statements(role: str, user: User, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """The role's policy as part of a bucket policy: the gateway attaches none to users."""
    text = Template((POLICIES / f"{role}.json").read_text())
    policy = json.loads(text.substitute(BUCKET=bucket, PREFIX=prefix))
    principal = {"AWS": [f"arn:aws:iam:::user/{user.name}"]}
    return [
        {**statement, "Sid": f"{role}{statement['Sid']}", "Principal": principal}
        for statement in policy["Statement"]
    ]


@pytest.fixture
def act_as(
    gateway: Gateway, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ObjectStore]:
    """Take a role's credentials from now on; returns the store as the role sees it."""
    bucket, prefix = s3_root.removeprefix("s3://").split("/")
    users = {role: gateway.new_user(role) for role in ROLES}
    rows = [row for role in ROLES for row in statements(role, users[role], bucket, prefix)]
    policy = json.dumps({"Version": "2012-10-17", "Statement": rows})
    gateway.client().put_bucket_policy(Bucket=bucket, Policy=policy)

    def act(role: str) -> ObjectStore:
        for name, value in gateway.environment(users[role]).items():
            monkeypatch.setenv(name, value)
        return open_store(s3_root)

    return act


def test_a_publisher_refreshes_publishes_rolls_back_and_cleans_up(
    act_as: Callable[[str], ObjectStore],
) -> None:
    store = act_as("publisher")
    probe(store)
    refresh(store, "a")
    learn(store, 1, "a", None)
    refresh(store, "b")
    learn(store, 2, "b", "1-00000001")
    roll_back(store)
    store.put(f"{LAYOUT.root}/orphan", b"nothing refers to it")
    garbage = find_garbage(store, LAYOUT, grace_seconds=0, now=9e12)
    assert [info.key for info in garbage] == [f"{LAYOUT.root}/orphan"]
    delete_garbage(store, garbage)
    assert abort_unfinished(store, LAYOUT, grace_seconds=0) == 0
    assert not store.exists(f"{LAYOUT.root}/orphan")
    with pytest.raises(AccessError, match="may not do this"):
        store.delete(LAYOUT.head(1))
    with pytest.raises(AccessError, match="may not do this"):
        store.put("elsewhere", b"x")


def test_a_trainer_writes_its_update_and_moves_nothing(
    act_as: Callable[[str], ObjectStore], tmp_path: Path
) -> None:
    refresh(act_as("publisher"), "a")
    store = act_as("trainer")
    before = state_of(store)
    checkpoint = f"{LAYOUT.checkpoints('u1')}/step-1"
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(PART_BYTES + 1))
    store.put_file(f"{checkpoint}/weights", weights)
    publish(store, f"{checkpoint}/manifest.json", LAYOUT)
    store.put_if_absent(f"{LAYOUT.metrics('u1')}/0-1.jsonl", b"{}")
    store.get_file(f"{checkpoint}/weights", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == weights.read_bytes()
    store.delete(f"{checkpoint}/weights")
    assert not store.exists(f"{checkpoint}/weights")

    head = read_head(store, LAYOUT)
    assert head is not None
    forbidden: list[Callable[[], object]] = [
        lambda: store.put_if_absent(LAYOUT.head(head.number + 1), b"mine"),
        lambda: store.put(LAYOUT.head_hint, b"mine"),
        lambda: store.put_if_absent(LAYOUT.lease, b"mine"),
        lambda: store.put(f"{LAYOUT.snapshot('s')}/x", b"mine"),
        lambda: store.put_file(f"{LAYOUT.model('1-00000001')}/model.safetensors", weights),
        lambda: store.delete(LAYOUT.head(head.number)),
        lambda: store.delete(f"{LAYOUT.update('u1')}/plan.json"),
    ]
    for act in forbidden:
        with pytest.raises(AccessError, match="may not do this"):
            act()
    assert state_of(store) == before


def test_a_reader_reads_everything_of_the_prefix_and_nothing_else(
    act_as: Callable[[str], ObjectStore], gateway: Gateway, s3_root: str
) -> None:
    refresh(act_as("publisher"), "a")
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    gateway.client().put_object(Bucket=bucket, Key="other/secret", Body=b"x")
    store = act_as("reader")
    assert state_of(store) is not None
    assert not store.exists(LAYOUT.head(99))
    other = open_store(f"s3://{bucket}/other")
    forbidden: list[Callable[[], object]] = [
        lambda: store.put(LAYOUT.head_hint, b"mine"),
        lambda: store.put_if_absent(f"{LAYOUT.update('u1')}/plan.json", b"mine"),
        lambda: store.delete(LAYOUT.head(1)),
        lambda: other.get("secret"),
        lambda: list(other.list("secrets")),
    ]
    for act in forbidden:
        with pytest.raises(AccessError, match="may not do this"):
            act()
