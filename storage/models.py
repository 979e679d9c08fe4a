"""Published models: Hugging Face directories in ``models/<version>/``, made by a manifest."""

from dataclasses import dataclass
from pathlib import Path

from storage.errors import CorruptError
from storage.manifest import (
    FileDigest,
    content_hash,
    digest_file,
    fetch_verified,
    load,
    publish,
    unseal,
)
from storage.objects import ObjectStore

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """What lies under ``models/<version>/``; written last."""

    lineage: str
    version: str
    origin: str
    """Prefix of the checkpoint that was exported, ``import:<identity>`` or ``merge:<identity>``."""
    code_version: str
    """Of Perennial, when it was exported."""
    content: str
    """SHA-256 over the digests of ``files``."""
    files: tuple[FileDigest, ...]


def digest_directory(directory: Path) -> tuple[FileDigest, ...]:
    """Digests of the files of a flat model directory, the manifest itself left out."""
    paths = sorted(path for path in directory.iterdir() if path.name != MANIFEST)
    return tuple(digest_file(path, path.name) for path in paths)


def upload_files(
    store: ObjectStore,
    prefix: str,
    directory: Path,
    *,
    lineage: str,
    version: str,
    origin: str,
    code_version: str,
) -> ModelManifest:
    """Upload a flat ``directory``; ``publish_model`` makes it a model. Safe to retry."""
    files = digest_directory(directory)
    for file in files:
        store.put_file(f"{prefix}/{file.name}", directory / file.name)
    return ModelManifest(
        lineage=lineage,
        version=version,
        origin=origin,
        code_version=code_version,
        content=content_hash(files),
        files=files,
    )


def publish_model(store: ObjectStore, prefix: str, manifest: ModelManifest) -> None:
    """Write the manifest. Raises AlreadyExistsError when it is another model's."""
    publish(store, f"{prefix}/{MANIFEST}", manifest)


def weights_hash(manifest: ModelManifest) -> str:
    """Hex SHA-256 of what decides the model's logits: its weights and its configuration.

    Two versions that compute the same share it, whatever else lies beside their weights.
    """
    return content_hash(
        file
        for file in manifest.files
        if file.name == "config.json" or file.name.endswith((".safetensors", ".index.json"))
    )


def is_published(store: ObjectStore, prefix: str) -> bool:
    """Whether a manifest makes the model exist; says nothing about its bytes."""
    return store.exists(f"{prefix}/{MANIFEST}")


def read_model_manifest(store: ObjectStore, prefix: str) -> ModelManifest:
    """The manifest. Raises NotFoundError, CorruptError."""
    return load(store, f"{prefix}/{MANIFEST}", ModelManifest)


def fetch_model(store: ObjectStore, prefix: str, directory: Path) -> Path:
    """A local directory with the model, every byte of its files checked.

    Args:
        store: A store on local files is read in place, without a copy.
        prefix: ``models/<version>`` of a lineage.
        directory: Where files are downloaded to otherwise; created if missing.

    Raises:
        NotFoundError: There is no such model.
        CorruptError: A file is missing, short or altered; the message names it.
    """
    return fetch_files(store, prefix, read_model_manifest(store, prefix), directory)


def fetch_files(store: ObjectStore, prefix: str, manifest: ModelManifest, directory: Path) -> Path:
    """``fetch_model`` with a manifest that need not be published yet."""
    directory.mkdir(parents=True, exist_ok=True)
    parents = {
        fetch_verified(store, prefix, file, directory / file.name).parent for file in manifest.files
    }
    if len(parents) != 1:
        raise CorruptError(
            f"the files of {prefix} were expected in one directory, found in "
            f"{sorted(map(str, parents))}; restore the model from a copy"
        )
    return parents.pop()


def verify_directory(directory: Path) -> None:
    """Check a local model directory against the manifest in it, every byte.

    Raises:
        CorruptError: The manifest or a file is missing, short or altered; the message names it.
    """
    path = directory / MANIFEST
    if not path.exists():
        raise CorruptError(
            f"{path} is missing: expected the manifest of a published model; the directory is not "
            "complete, fetch the model again"
        )
    for expected in unseal(path.read_bytes(), str(path), ModelManifest).files:
        file = directory / expected.name
        if not file.exists():
            raise CorruptError(f"{file} is missing, but {path} lists it: fetch the model again")
        found = digest_file(file, expected.name)
        if found != expected:
            raise CorruptError(
                f"{file} was expected with {expected.size} bytes and SHA-256 {expected.sha256}, "
                f"found {found.size} bytes and {found.sha256}; fetch the model again"
            )
