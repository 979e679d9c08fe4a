"""An instruct model for a base that has learned since: the old one's difference on the new base."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.manifest import readable_json
from tasks.import_base import identity_of_directory

if TYPE_CHECKING:
    from training.merge.residual import LayerChange

logger = logging.getLogger(__name__)

RECORD = "graft.json"
"""Beside the weights: what the model was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grafted:
    """How an instruct model was made; written as ``graft.json`` into its directory."""

    base: str
    """SHA-256 of what makes the model: configuration, weights, tokenizer."""
    instruct: str
    new_base: str
    scale: float
    """By which the instruct model's difference was multiplied."""
    layers: tuple["LayerChange", ...]


def graft_instruct(
    base: Path, instruct: Path, new_base: Path, out: Path, *, scale: float, expected_base: str = ""
) -> Grafted:
    """Write ``new_base + scale * (instruct - base)`` to ``out``, with a record. Safe to repeat.

    Args:
        base: Directory of the model from which both others were made.
        instruct: It, taught to follow instructions.
        new_base: It, after further pretraining.
        out: Must not exist, or be an earlier graft, which is replaced.
        scale: 1 takes the difference as it is.
        expected_base: Identity of the base that ``new_base`` is known to come from; "" for unknown.

    Raises:
        ValueError: The models do not belong together; names them.
        FileNotFoundError: A file is missing.
    """
    # Not at the top: they import torch.
    from training.merge.parents import open_parents  # noqa: PLC0415
    from training.merge.residual import changes_by_layer, graft  # noqa: PLC0415

    if out.exists() and not (out / RECORD).is_file():
        raise ValueError(f"{out} exists and is no graft: name a directory that does not exist")
    of_base, of_instruct, of_new = (
        identity_of_directory(path) for path in (base, instruct, new_base)
    )
    if expected_base and of_base != expected_base:
        raise ValueError(
            f"{base} is not the model that {new_base} comes from: its files have the hash "
            f"{of_base[:12]}, what was imported had {expected_base[:12]}; give that revision"
        )
    if len({of_base, of_instruct, of_new}) < 3:
        raise ValueError(
            f"expected three models, found the same twice among {base}, {instruct} and {new_base}: "
            "there is nothing to carry over"
        )
    parents = open_parents({str(path): path for path in (base, instruct, new_base)})
    old, taught, new = parents
    layers = changes_by_layer(old, taught, new)
    graft(old, taught, new, out, scale=scale)
    grafted = Grafted(
        base=of_base,
        instruct=of_instruct,
        new_base=of_new,
        scale=scale,
        layers=layers,
    )
    (out / RECORD).write_bytes(readable_json(grafted))
    logger.info(f"wrote {out}: {new_base} + {scale:g} * ({instruct} - {base})")
    return grafted
