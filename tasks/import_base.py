"""Make a Hugging Face directory version 1 of a lineage: checked, exported as ours, on the head."""

import logging
from functools import partial
from pathlib import Path

from storage.head import Head, VersionRecord, commit_change, next_head
from storage.layout import Layout
from storage.manifest import content_hash, digest_file
from storage.models import fetch_model, is_published
from storage.objects import ObjectStore
from storage.transitions import with_imported
from tasks.model_export import export_model
from tasks.publish import ExtendReplay

logger = logging.getLogger(__name__)


def import_base(
    store: ObjectStore,
    layout: Layout,
    directory: Path,
    *,
    references: tuple[str, ...],
    extend_replay: ExtendReplay,
    by: str,
    reason: str,
    work_dir: Path,
    lease_token: int | None = None,
) -> Head:
    """Import ``directory`` as the first champion, untrained; returns the head that holds it.

    Safe to retry: the import is found by the hash of the directory's files.

    Args:
        store: Where everything of the lineage lies.
        layout: Of the lineage, which has no champion yet.
        directory: A causal model in safetensors, with its tokenizer.
        references: Snapshots of text like what the model was trained on, minted by a refresh with
            the model's tokenizer. They become learned and enter replay.
        extend_replay: Called when there are references.
        by: Who.
        reason: Why this model.
        work_dir: For local copies.
        lease_token: Of the lease under which this runs, if any.

    Raises:
        ValueError: The model or its tokenizer is not supported, or does not fit the lineage; the
            message names the field.
    """
    identity = identity_of_directory(directory)
    tokenizer = _upload_tokenizer(store, layout, directory)
    head = commit_change(store, layout, lambda head: head or _init(layout, tokenizer, by))
    _check_tokenizer(head, tokenizer, directory)
    known = next((record for record in head.versions if record.update == identity), None)
    version = known.version if known else f"{len(head.versions) + 1}-{identity[:8]}"

    imported = partial(
        with_imported,
        record=_record(version, identity, references, reason),
        tokenizer=tokenizer,
        by=by,
        reason=reason,
        lease_token=lease_token,
    )
    # Tried first, so that a refusal does not leave a model behind.
    imported(head, replay=None)
    _export(store, layout, directory, version, identity, tokenizer, work_dir)

    def change(head: Head | None) -> Head:
        # Committed above, and heads are never removed.
        assert head is not None
        is_new = all(known.update != identity for known in head.versions)
        replay = extend_replay(head, references) if references and is_new else head.replay
        return imported(head, replay=replay)

    head = commit_change(store, layout, change)
    logger.info("%s imported as %s of %s", directory, version, layout.lineage)
    return head


def _record(version: str, identity: str, references: tuple[str, ...], reason: str) -> VersionRecord:
    return VersionRecord(
        version=version,
        update=identity,
        verdict="IMPORTED",
        decision="published",
        parent=None,
        # The next update continues from the model itself.
        trunk=None,
        snapshots=references,
        replay=None,
        # Set by the transition.
        on_head=0,
        reason=reason,
    )


def identity_of_directory(directory: Path) -> str:
    """Hash of what makes the model: configuration, weights, tokenizer. Hex, 64 digits.

    Where the directory lies and what else is in it (a README, say) does not matter.

    Raises:
        ValueError: There is no config.json.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"{directory} has no config.json: expected a Hugging Face model directory; give the "
            "directory that save_pretrained wrote"
        )
    from training.tokenizer import TOKENIZER_FILES  # noqa: PLC0415  imports tokenizers

    names = {"config.json", "model.safetensors.index.json", *TOKENIZER_FILES}
    paths = [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and (path.name in names or path.suffix == ".safetensors")
    ]
    return content_hash(digest_file(path, path.name) for path in paths)


def _export(
    store: ObjectStore,
    layout: Layout,
    directory: Path,
    version: str,
    identity: str,
    tokenizer: str,
    work_dir: Path,
) -> None:
    prefix = layout.model(version)
    if is_published(store, prefix):
        fetch_model(store, prefix, work_dir / "published" / version)
        return
    # Not at the top: torch takes seconds to import, and who merely schedules does not need it.
    from training.model_files import load_model  # noqa: PLC0415
    from training.tokenizer import read_tokenizer_manifest  # noqa: PLC0415

    model = load_model(directory)
    vocab_size = read_tokenizer_manifest(store, tokenizer).vocab_size
    if vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of {directory} has {vocab_size} tokens, the model's vocab_size is "
            f"{model.config.vocab_size}: expected no more; import the tokenizer that belongs to it"
        )
    export_model(
        store,
        layout,
        model,
        version=version,
        origin=f"import:{identity}",
        tokenizer_prefix=tokenizer,
        work_dir=work_dir,
    )


def _upload_tokenizer(store: ObjectStore, layout: Layout, directory: Path) -> str:
    from training.tokenizer import upload_tokenizer  # noqa: PLC0415  imports tokenizers

    return upload_tokenizer(store, layout, directory)


def _check_tokenizer(head: Head, tokenizer: str, directory: Path) -> None:
    if head.tokenizer not in (None, tokenizer):
        raise ValueError(
            f"{head.lineage} has data of the tokenizer {head.tokenizer}, {directory} brings "
            f"{tokenizer}: tokens of one mean nothing to the other; import into a new lineage"
        )


def _init(layout: Layout, tokenizer: str, by: str) -> Head:
    return next_head(None, action="init", by=by, lineage=layout.lineage, tokenizer=tokenizer)
