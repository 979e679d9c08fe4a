"""AdamW as pretraining uses it, and its moments as plain tensors by parameter name."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig

logger = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over all parameters of ``model``.

    Matrices decay; norms and biases, which have one dimension, do not. The learning rate is set
    before every step by the loop.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        *_groups([p for p in parameters if p.ndim >= 2], config.weight_decay),
        *_groups([p for p in parameters if p.ndim < 2], 0.0),
    ]
    unsupported = {p.device.type for p in parameters}.difference(_FUSED_DEVICES)
    if unsupported:
        logger.warning("AdamW runs unfused: no fused kernel for %s", ", ".join(sorted(unsupported)))
    return _AdamW(
        groups,
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=not unsupported,
    )


class _AdamW(torch.optim.AdamW):
    """torch's own, without its compiler.

    torch 2.11 to 2.13 imports ``torch._dynamo`` to make an optimizer and to step it, although
    nothing is compiled (``torch._compile._disable_dynamo``, ``_use_grad_for_differentiable``):
    0.8 s of a core at every start of a worker. These are the functions inside of those wrappers.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """One group, or one for each mesh of ranks that share parameters: a kernel takes no mixture."""
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_mesh.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return [{"params": group, "weight_decay": weight_decay} for group in by_mesh.values()]


def moments_of(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Both moments and the step count of every parameter, as ``<parameter>.exp_avg`` and so on.

    Empty before the first step. The tensors are the optimizer's own, not copies; in pieces where
    their parameter is.
    """
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def empty_moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Give the optimizer moments for the caller to fill, and return them as ``moments_of`` does."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return moments_of(model, optimizer)


def restore_moments(
    model: nn.Module, optimizer: torch.optim.AdamW, moments: Mapping[str, Tensor]
) -> None:
    """Put back what ``moments_of`` gave. The optimizer takes the tensors as its own.

    Raises:
        ValueError: A moment is missing, of another shape, or belongs to no parameter.
    """
    wanted = {
        f"{name}.{moment}": (parameter, moment)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for moment in _MOMENTS
    }
    if moments and moments.keys() != wanted.keys():
        odd = sorted(moments.keys() ^ wanted.keys())[0]
        raise ValueError(
            f"the stored moments do not belong to this model: {odd} is on one side only; "
            "start with moments: reset"
        )
    for key, tensor in moments.items():
        parameter, moment = wanted[key]
        if moment != "step" and tensor.shape != parameter.shape:
            raise ValueError(
                f"the stored moment {key} has shape {tuple(tensor.shape)}, its parameter "
                f"{tuple(parameter.shape)}; start with moments: reset"
            )
        optimizer.state[parameter][moment] = tensor.to(parameter.device, torch.float32)
