"""Whether data, model and configuration of an update fit each other."""

import json
from dataclasses import asdict
from pathlib import Path

from storage.head import Head
from storage.layout import Layout
from storage.manifest import read_verified
from storage.models import read_model_manifest
from storage.objects import ObjectStore
from storage.snapshots import SnapshotManifest
from training.config import ForeignConfig, ModelConfig, Recipe
from training.foreign.config import model_config_of


def check_same_model(
    layout: Layout, asked: ModelConfig | None, has: ModelConfig | ForeignConfig
) -> None:
    """Refuse another architecture than the trunk's, which would go unheeded."""
    if asked is None:
        return
    if isinstance(has, ForeignConfig):
        raise ValueError(  # noqa: TRY004  a wrong configuration, not a wrong type
            f"base.model of lineage {layout.lineage} was set after its first version, which is a "
            f"{has.model_type} model from base.directory: set it back, or start another lineage"
        )
    changed = [
        f"{name} {value} (the lineage has {asdict(has)[name]})"
        for name, value in asdict(asked).items()
        if value != asdict(has)[name]
    ]
    if changed:
        raise ValueError(
            f"base.model of lineage {layout.lineage} was changed after its first version: "
            f"{', '.join(changed)}; set it back, or start another lineage"
        )


def stored_config(store: ObjectStore, layout: Layout, version: str) -> ModelConfig | ForeignConfig:
    """The architecture of a published version."""
    prefix = layout.model(version)
    manifest = read_model_manifest(store, prefix)
    file = next(file for file in manifest.files if file.name == "config.json")
    fields = json.loads(read_verified(store, prefix, file))
    return model_config_of(fields, Path(prefix) / "config.json")


def check_compatible(
    pending: list[SnapshotManifest],
    head: Head,
    recipe: Recipe,
    model: ModelConfig | ForeignConfig,
) -> None:
    """Refuse data that the model or the recipe cannot train on; names the field."""
    if recipe.seq_len > model.max_position_embeddings:
        raise ValueError(
            f"recipe.seq_len is {recipe.seq_len}, but the model has only "
            f"{model.max_position_embeddings} positions (max_position_embeddings): lower seq_len"
        )
    for snapshot in pending:
        if snapshot.seq_len != recipe.seq_len:
            raise ValueError(
                f"recipe.seq_len is {recipe.seq_len}, but snapshot {snapshot.id} was packed with "
                f"{snapshot.seq_len}: set recipe.seq_len back, it is fixed when a lineage starts"
            )
        if snapshot.tokenizer != head.tokenizer:
            raise ValueError(
                f"snapshot {snapshot.id} was tokenised with {snapshot.tokenizer}, the lineage uses "
                f"{head.tokenizer}: a lineage keeps its tokenizer for life"
            )
        if snapshot.vocab_size > model.vocab_size:
            raise ValueError(
                f"the tokenizer of snapshot {snapshot.id} has {snapshot.vocab_size:,} tokens, "
                f"the model's embedding only {model.vocab_size:,} rows (vocab_size)"
            )
