"""A cool-down from a checkpoint of a version that is in use."""

from storage.head import read_head
from storage.layout import Layout
from storage.ledger import read_ledger
from storage.local_objects import LocalObjects
from tests.support.commands import Commands
from tests.support.tiny_lineage import SEQ_LEN, TinyLineage
from training.metrics import LR, STEP, read_metrics

LAYOUT = Layout("tiny")
BATCH_TOKENS = 16 * SEQ_LEN


def test_a_branch_is_judged_like_any_update_and_leaves_the_trunk_at_its_checkpoint(
    lineage: TinyLineage, perennial: Commands
) -> None:
    store = LocalObjects(perennial.home / "store")
    head = read_head(store, LAYOUT)
    assert head is not None
    base = head.versions[0].update
    missing = perennial.run("update", lineage.file, "--branch-from", f"{base}/step-50")
    assert "no checkpoint of step 50 to branch from; there are step-80, step-100" in missing.error

    cooled = ("--branch-from", f"{base}/step-80", "--cooldown-tokens", str(10 * BATCH_TOKENS))
    ended = perennial.run("update", lineage.file, *cooled, "--json")
    assert ended.code in (0, 3, 4), ended.err
    branch = ended.json["version"]
    head = read_head(store, LAYOUT)
    assert head is not None
    update = head.versions[-1].update
    rates = {row[STEP]: row[LR] for row in read_metrics(store, LAYOUT.metrics(update))}
    assert list(rates) == list(range(81, 91))
    assert rates[90] == 0.002
    # What the published update trained on before the branch is in that one's ledger.
    seen = sum(row.tokens for row in read_ledger(store, LAYOUT, update))
    assert 0.98 * 10 * BATCH_TOKENS < seen <= 10 * BATCH_TOKENS
    again = perennial.run("update", lineage.file, *cooled)
    assert (again.code, "already judged" in again.out) == (0, True)

    if ended.json["kind"] != "PASS":
        promoted = perennial.run("promote", branch, lineage.file, "--reason", "cooler")
        assert promoted.code == 0, promoted.err
    head = read_head(store, LAYOUT)
    assert head is not None
    trunk = f"{LAYOUT.checkpoints(base)}/step-80"
    assert (head.champion, head.trunk) == (branch, trunk)
    lineage.add("prose", part=2)
    planned = perennial.run("plan", lineage.file, "--json")
    assert planned.code == 0, planned.err
