"""Works around one fault of an installation: torchvision's operators on a torch without CUDA.

The torchvision wheel on PyPI links its compiled operators against CUDA. Beside a CPU-only torch
they cannot be loaded; torchvision hides that, and then fails while it imports itself with
``RuntimeError: operator torchvision::nms does not exist``. mosaicml-streaming always imports
torchvision, and transformers does so for most model classes, so neither can be imported, though
nothing here uses an operator on images.

This module can go when ``import torchvision`` works beside a CPU-only torch from PyPI;
``tests/training/foreign/test_torchvision_operators.py`` fails on that day and says so.
"""

import importlib
import importlib.util
from functools import cache

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def _declare() -> torch.library.Library:
    """Declare the schemas; cached, because operators vanish with the library that declared them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


def declare_missing_operators() -> None:
    """Make ``import torchvision`` possible where its compiled operators could not be loaded.

    Call it before the first import of ``streaming`` or of a model class of ``transformers``. Does
    nothing when torchvision is absent or works; safe to call any number of times. The declared
    operators have no implementation: calling one raises NotImplementedError.

    Raises:
        RuntimeError: torchvision is broken in another way.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        # Importing is the only honest probe: how and whence the library is loaded is private.
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        _declare()
