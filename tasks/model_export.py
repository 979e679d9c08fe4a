"""Write a model as a published directory: Hugging Face files, tokenizer, MLmodel; then compare.

The manifest, without which the model does not exist, is written when the uploaded files have been
read back and compute the same logits.
"""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from infra.versions import code_version
from storage.layout import Layout
from storage.models import fetch_files, publish_model, upload_files
from storage.objects import ObjectStore
from training.checkpoint.index import step_prefix
from training.config import TrainPlan
from training.release import describe_release

if TYPE_CHECKING:
    from training.causal_model import CausalModel

logger = logging.getLogger(__name__)


def load_trained(
    store: ObjectStore, checkpoint_prefix: str, plan: TrainPlan, work_dir: Path
) -> "CausalModel":
    """The model that a run releases, verified: its last weights, or an average as its plan says.

    Raises:
        NotFoundError: A checkpoint that it needs is not there.
        CorruptError: One is altered.
    """
    from training.checkpoint.average import average_weights  # noqa: PLC0415  torch
    from training.checkpoint.restore import load_weights  # noqa: PLC0415  torch
    from training.model_files import model_with  # noqa: PLC0415  torch

    steps = plan.release_steps
    if not steps:
        weights = load_weights(store, checkpoint_prefix, work_dir)
        return model_with(plan.model, weights, checkpoint_prefix)
    checkpoints = [step_prefix(plan.checkpoint_prefix, step) for step in steps]
    weights = average_weights(store, checkpoints, plan.release.shares(len(steps)))
    logger.info(describe_release(plan.release, steps))
    return model_with(plan.model, weights, checkpoint_prefix)


def export_model(
    store: ObjectStore,
    layout: Layout,
    model: "CausalModel",
    *,
    version: str,
    origin: str,
    tokenizer_prefix: str,
    work_dir: Path,
) -> None:
    """Write ``model`` under ``models/<version>/``, read it back, compare, and make it exist.

    Safe to retry.

    Raises:
        RuntimeError: The export computes other logits; the message names the largest difference.
    """
    from training.model_files import write_directory  # noqa: PLC0415  torch
    from training.pyfunc import write_mlmodel  # noqa: PLC0415  tokenizers
    from training.tokenizer import TOKENIZER_FILES, fetch_tokenizer  # noqa: PLC0415  tokenizers

    prefix = layout.model(version)
    directory = work_dir / "export" / version
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tokenizer = fetch_tokenizer(store, tokenizer_prefix, work_dir / "tokenizer")
    write_directory(directory, model, start_id=tokenizer.start_id, end_id=tokenizer.end_id)
    for name in TOKENIZER_FILES:
        if (tokenizer.directory / name).is_file():
            shutil.copyfile(tokenizer.directory / name, directory / name)
    write_mlmodel(directory, identity=f"{layout.lineage}/{version}/{origin}")
    manifest = upload_files(
        store,
        prefix,
        directory,
        lineage=layout.lineage,
        version=version,
        origin=origin,
        code_version=code_version(),
    )
    read_back = fetch_files(store, prefix, manifest, work_dir / "published" / version)
    _compare(model, read_back, prefix)
    publish_model(store, prefix, manifest)
    shutil.rmtree(directory)
    logger.info("exported %s to %s, logits equal", origin, prefix)


def _compare(model: "CausalModel", directory: Path, prefix: str) -> None:
    """Raise RuntimeError unless the model in ``directory`` computes exactly what ``model`` does."""
    import torch  # noqa: PLC0415  heavy

    from training.model_files import load_like  # noqa: PLC0415  torch

    reloaded = load_like(model, directory)
    vocab_size = model.config.vocab_size
    for length in (1, 7, 64):
        length = min(length, model.config.max_position_embeddings)
        # A fixed walk through the vocabulary, whose stride shares no factor with most sizes.
        tokens = torch.arange(length).mul(7919).remainder(vocab_size).unsqueeze(0)
        with torch.no_grad():
            difference = (model(tokens) - reloaded(tokens)).abs().max().item()
        # Exact: the same weights in the same arithmetic. A NaN is unequal to everything.
        if difference != 0.0:
            raise RuntimeError(
                f"the export under {prefix} computes other logits than the model it was made from: "
                f"they differ by up to {difference:g} on {length} tokens, expected no difference; "
                "nothing was published"
            )
