"""Whole checkpoints in local folders: what a save writes first, and what a restart may find."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.errors import NotFoundError
from storage.manifest import digest_bytes, readable_json, unseal
from training.checkpoint.index import FORMAT, MANIFEST, PROGRESS, CheckpointManifest, Progress
from training.checkpoint.pieces import TensorFile
from training.checkpoint.tensors import write_tensors

_ROWS = "rows.json"
"""In a local folder only."""


@dataclass(frozen=True, slots=True)
class UnstoredRows:
    """Rows of the journal up to a local checkpoint, that the store may not have."""

    rows: tuple[dict[str, Any], ...]

    @staticmethod
    def of(folder: Path) -> "UnstoredRows":
        """Those of a local checkpoint. Raises NotFoundError, CorruptError."""
        try:
            return unseal((folder / _ROWS).read_bytes(), str(folder / _ROWS), UnstoredRows)
        except FileNotFoundError as error:
            raise NotFoundError(f"{folder / _ROWS} is missing") from error


def write_local(
    folder: Path,
    progress: Progress,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    *,
    rows: Iterable[dict[str, Any]] = (),
) -> CheckpointManifest:
    """Make a checkpoint in a local folder, durable on return; replaces what lies there.

    Args:
        folder: Where.
        progress: What is no tensor.
        weights: Of the host, by parameter name.
        moments: Likewise.
        rows: Of the journal, that the store may lack; they stay in the folder, beside it.

    Raises:
        OSError: The disk is full, or failed; the folder is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        manifest = CheckpointManifest(
            step=progress.step,
            weights=_write_named(folder / "model.safetensors", weights),
            moments=_write_named(folder / "optimizer.safetensors", moments),
            progress=digest_bytes(readable_json(progress), PROGRESS),
            format=FORMAT,
        )
        _write_flushed(folder / PROGRESS, readable_json(progress))
        _write_flushed(folder / _ROWS, readable_json(UnstoredRows(tuple(rows))))
        # Renamed into place: a manifest that is there is whole.
        _write_flushed(folder / ".manifest", readable_json(manifest))
        (folder / ".manifest").replace(folder / MANIFEST)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def read_local(folder: Path) -> CheckpointManifest:
    """The manifest of a local checkpoint. Raises NotFoundError, CorruptError."""
    try:
        body = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no whole checkpoint in {folder}") from error
    return unseal(body, str(folder / MANIFEST), CheckpointManifest)


def _write_named(path: Path, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Write a file and name it after its content."""
    file = write_tensors(path, tensors)
    path.replace(path.with_name(file.name))
    return file


def _write_flushed(path: Path, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
