"""A takedown in a bucket that keeps versions: what objects were before goes too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from storage.errors import AlreadyExistsError, ConflictError
from storage.mlflow_client import mlflow_client
from storage.objects import ObjectStore, open_store
from storage.run_artifacts import bucket_of_artifacts
from tasks.forget.passages import Passages, windows_of
from tasks.forget.sweep import purge_older
from tests.integration.servers.gateway import Gateway
from tests.integration.servers.mlflow_server import MlflowServer
from tests.tasks.forget.scene import LAYOUT, Scene, spellings, words

pytestmark = pytest.mark.integration


class Bucket:
    """A bucket, seen by a plain client."""

    def __init__(self, gateway: Gateway, s3_root: str) -> None:
        self._client = gateway.client()
        self._name = s3_root.removeprefix("s3://").split("/")[0]

    def keep_versions(self) -> None:
        """From now on."""
        self._client.put_bucket_versioning(
            Bucket=self._name, VersioningConfiguration={"Status": "Enabled"}
        )

    def bodies(self) -> Iterator[tuple[str, str, bytes]]:
        """Key, version and bytes of everything that the bucket keeps."""
        pages: Any = self._client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self._name):
            for row in page.get("Versions", ()):
                place = {"Bucket": self._name, "Key": row["Key"], "VersionId": row["VersionId"]}
                yield row["Key"], row["VersionId"], self._client.get_object(**place)["Body"].read()

    def with_any(self, needles: list[bytes]) -> list[str]:
        """Keys of the versions that hold one of ``needles``."""
        return [key for key, _, body in self.bodies() if any(part in body for part in needles)]


class OneWriter:
    """A bucket's verbs, with conditions that hold for one writer.

    In a bucket with versioning this gateway (Ceph 16) takes every conditional write, and answers as
    if it had not: our store refuses to start a lineage there. Amazon's keeps the conditions.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_if_absent(self, key: str, body: bytes) -> None:
        if not self._inner.exists(key):
            self._inner.put(key, body)
        elif self._inner.get(key) != body:
            raise AlreadyExistsError(key)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        if self._inner.get_with_etag(key)[1] != etag:
            raise ConflictError(key)
        self._inner.put(key, body)
        return self._inner.get_with_etag(key)[1]


def test_no_version_of_any_object_has_what_was_forgotten(
    gateway: Gateway, s3_root: str, tmp_path: Path
) -> None:
    bucket = Bucket(gateway, s3_root)
    bucket.keep_versions()
    scene = Scene(cast("ObjectStore", OneWriter(open_store(s3_root))), tmp_path)
    texts = {f"planted-{n}": words(n) for n in range(24)}
    scene.write("1.jsonl", texts)
    first = scene.refresh().snapshot
    gone = [*scene.split_of(first, "train")[3:5], scene.split_of(first, "holdout")[1]]
    needles = [piece for name in gone for piece in spellings(texts[name], scene.tokenizer)]
    page = f"{LAYOUT.update('u1')}/report.html"
    scene.store.put(page, f"<p>kept</p><td>{texts[gone[0]]}</td>".encode())
    scene.store.put(page, b"<p>kept</p>")
    # Written, deleted, and still there as a version.
    scene.store.put(f"{LAYOUT.snapshot(first or '')}/web/train/left.mds", texts[gone[1]].encode())
    scene.store.delete(f"{LAYOUT.snapshot(first or '')}/web/train/left.mds")
    assert {page, f"{LAYOUT.snapshot(first or '')}/web/train/left.mds"} <= {
        key.partition("/")[2] for key in bucket.with_any(needles)
    }
    done = scene.forget(*gone)
    assert done.proof.places == ()
    assert done.proof.versions > done.proof.objects > 10
    assert bucket.with_any(needles) == []
    assert scene.store.get(page) == b"<p>kept</p>"
    # What is not about it keeps what it was before: the lease was written several times.
    leases = [key for key, _, _ in bucket.bodies() if key.endswith("/lease.json")]
    assert len(leases) > 2
    scene.write("2.jsonl", {"copy": texts[gone[0]], "new": words(99)})
    assert scene.refresh().documents_dropped == {"duplicate": 1}
    assert bucket.with_any(needles) == []


def test_in_a_bucket_without_versions_nothing_is_left_either(
    gateway: Gateway, s3_root: str, tmp_path: Path
) -> None:
    scene = Scene(open_store(s3_root), tmp_path)
    texts = {f"planted-{n}": words(n) for n in range(12)}
    scene.write("1.jsonl", texts)
    name = scene.split_of(scene.refresh().snapshot, "train")[0]
    needles = list(spellings(texts[name], scene.tokenizer))
    done = scene.forget(name)
    assert (done.proof.places, done.proof.versions) == ((), done.proof.objects)
    held = [info.key for info in scene.store.list(LAYOUT.root)]
    assert not [key for key in held if any(part in scene.store.get(key) for part in needles)]
    # What this machine had fetched is gone as well.
    files = [path for path in scene.work.rglob("*") if path.is_file()]
    assert not [path for path in files if any(part in path.read_bytes() for part in needles)]


@pytest.fixture
def mlflow(
    gateway: Gateway, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowServer]:
    """A server whose artifacts lie in the bucket; clients reach them through it alone."""
    server = MlflowServer(
        folder=tmp_path / "mlflow",
        artifacts_uri=f"{s3_root}/mlflow",
        environment=gateway.environment(),
    )
    for name, value in server.client_environment().items():
        monkeypatch.setenv(name, value)
    yield server.start()
    server.stop()


def test_what_artifacts_of_mlflow_were_before_goes_as_well(
    gateway: Gateway, s3_root: str, mlflow: MlflowServer
) -> None:
    bucket = Bucket(gateway, s3_root)
    bucket.keep_versions()
    text = words(7)
    needles = [text[:60].encode(), text[-60:].encode()]
    client = mlflow_client(mlflow.uri)
    runs = [client.create_run(client.create_experiment(name)) for name in ("demo", "demo-2")]
    for run in runs:
        for body in (f"<p>{text}</p>", "<p>kept</p>"):
            client.log_text(run.info.run_id, body, "report.html")
    assert len(bucket.with_any(needles)) == 2
    assert bucket_of_artifacts(mlflow.uri, lineage="demo", destination="") is None
    found = bucket_of_artifacts(mlflow.uri, lineage="demo", destination=f"{s3_root}/mlflow")
    assert found is not None
    passages = Passages(windows_of(text))
    assert purge_older(*found, passages).places == ()
    # Those of another lineage are its own.
    assert [runs[1].info.run_id in key for key in bucket.with_any(needles)] == [True]
    path = client.download_artifacts(runs[0].info.run_id, "report.html")
    assert Path(path).read_text() == "<p>kept</p>"
    # What can be read is told, and stays.
    client.log_text(runs[0].info.run_id, text, "other.txt")
    (place,) = purge_older(*found, passages).places
    assert place.where.endswith("other.txt")
