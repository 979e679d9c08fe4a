from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import AlreadyExistsError, CorruptError, NotFoundError
from storage.local_objects import LocalObjects
from storage.models import (
    ModelManifest,
    digest_directory,
    fetch_model,
    is_published,
    publish_model,
    read_model_manifest,
    upload_files,
    verify_directory,
    weights_hash,
)

PREFIX = "lineages/demo/models/1-aaaaaaaa"


class RemoteObjects(LocalObjects):
    """A store whose objects have to be fetched, as on S3."""

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002  the store's signature
        return None


def uploaded(store: LocalObjects, directory: Path, *, weights: bytes = b"weights") -> ModelManifest:
    directory.mkdir()
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.safetensors").write_bytes(weights)
    return upload_files(
        store,
        PREFIX,
        directory,
        lineage="demo",
        version="1-aaaaaaaa",
        origin="checkpoints/step-1",
        code_version="1",
    )


def test_without_its_manifest_a_model_does_not_exist(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    manifest = uploaded(store, tmp_path / "in")
    assert not is_published(store, PREFIX)
    with pytest.raises(NotFoundError, match=r"there is no object .*manifest\.json"):
        fetch_model(store, PREFIX, tmp_path / "out")
    publish_model(store, PREFIX, manifest)
    publish_model(store, PREFIX, manifest)
    assert is_published(store, PREFIX)
    assert read_model_manifest(store, PREFIX) == manifest


def test_a_local_store_is_read_in_place_and_a_remote_one_copied(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    publish_model(store, PREFIX, uploaded(store, tmp_path / "in"))
    in_place = fetch_model(store, PREFIX, tmp_path / "unused")
    assert in_place == tmp_path / "store" / PREFIX
    copy = fetch_model(RemoteObjects(tmp_path / "store"), PREFIX, tmp_path / "copy")
    assert copy == tmp_path / "copy"
    for name in ("config.json", "model.safetensors"):
        assert (copy / name).read_bytes() == (in_place / name).read_bytes()


@pytest.mark.parametrize("kind", [LocalObjects, RemoteObjects])
def test_an_altered_byte_is_found_when_a_model_is_fetched(
    tmp_path: Path, kind: type[LocalObjects]
) -> None:
    store = kind(tmp_path / "store")
    publish_model(store, PREFIX, uploaded(store, tmp_path / "in"))
    verify_directory(tmp_path / "store" / PREFIX)
    store.put(f"{PREFIX}/model.safetensors", b"weightz")
    with pytest.raises(CorruptError, match=r"model\.safetensors was altered"):
        fetch_model(store, PREFIX, tmp_path / "out")
    with pytest.raises(CorruptError, match=r"model\.safetensors was expected with 7 bytes"):
        verify_directory(tmp_path / "store" / PREFIX)


def test_a_prefix_holds_one_model_for_ever(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    publish_model(store, PREFIX, uploaded(store, tmp_path / "in"))
    other = uploaded(store, tmp_path / "other", weights=b"others!")
    with pytest.raises(AlreadyExistsError, match=r"manifest\.json already exists"):
        publish_model(store, PREFIX, other)


def test_models_with_the_same_weights_have_one_hash_whatever_else_lies_beside_them(
    tmp_path: Path,
) -> None:
    store = LocalObjects(tmp_path / "store")
    plain = uploaded(store, tmp_path / "plain")
    (tmp_path / "described").mkdir()
    (tmp_path / "described" / "MLmodel").write_bytes(b"another version")
    beside = digest_directory(tmp_path / "described")
    described = replace(plain, files=(*plain.files, *beside), version="2-bbbbbbbb")
    assert weights_hash(described) == weights_hash(plain)
    other = uploaded(store, tmp_path / "other", weights=b"others")
    assert weights_hash(other) != weights_hash(plain)
