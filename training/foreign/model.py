"""Causal models that ``transformers`` computes, in the same loop and the same checks as our own.

Weights come from safetensors alone and no code that lies beside a model is ever run. Nothing is
random in training: the network stays in evaluation mode, so that no dropout of any family acts and
an interrupted run can be continued exactly.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import CorruptError
from training.checkpoint.state import weights_of
from training.config import ForeignConfig
from training.cross_entropy import nats_of_logits, summed_nats_of_logits
from training.foreign.family import attention_of, config_object, transformers_library
from training.foreign.packing import (
    check_packing,
    packed_logits,
    plain_logits,
    takes_trees,
    tree_logits,
)
from training.trees import LogitsOfTrees, Trees

_MOST_LOGITS = 2**28
"""That are held at once where no gradient needs them."""


class ForeignModel(nn.Module):
    """A causal model of ``transformers`` as a ``training.causal_model.CausalModel``.

    Args:
        network: On its device.
        config: From which it was made.
    """

    def __init__(self, network: nn.Module, config: ForeignConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self._is_packing_checked = False
        self._takes_trees: bool | None = None
        self.eval()
        _freeze_unused(network)

    def train(self, mode: bool = True) -> "ForeignModel":  # noqa: ARG002  torch's signature
        """Stay in evaluation mode, without dropout, whatever ``mode`` says."""
        return super().train(False)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits ``[B, T, V]``, see ``CausalModel``.

        Raises:
            ValueError: The model does not tell documents apart in the way of its configuration.
        """
        if segments is None:
            return plain_logits(self.network, tokens)
        if not self._is_packing_checked:
            # With the weights that are used, and not with those that a new model begins with.
            check_packing(self.network, self.config)
            self._is_packing_checked = True
        return packed_logits(self.network, tokens, segments, self.config.packing)

    def summed_nats(
        self, tokens: Tensor, segments: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the targets' nats, a float32 scalar with gradients, and its terms, ``[B * T]``."""
        return summed_nats_of_logits(self(tokens, segments).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def nats_of_targets(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Nats of each target, ``float32[B * T]``, without gradients; 0 where there is none."""
        rows = max(1, _MOST_LOGITS // (tokens.shape[1] * self.config.vocab_size))
        parts = zip(tokens.split(rows), segments.split(rows), targets.split(rows), strict=True)
        return torch.cat(
            [nats_of_logits(self(t, s).flatten(0, 1), wanted.flatten()) for t, s, wanted in parts]
        )

    def next_logits(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits ``float32[B, V]`` of the token after the first ``lengths`` (``int64[B]``)."""
        rows = torch.arange(len(tokens), device=tokens.device)
        return self(tokens)[rows, lengths - 1].float()

    @property
    def takes_trees(self) -> bool:
        """Found by trying, once."""
        if self._takes_trees is None:
            self._takes_trees = takes_trees(self.network, self.config)
        return self._takes_trees

    def logits_of_trees(self) -> LogitsOfTrees:
        """See ``CausalModel``."""
        return self._logits_of_trees

    @torch.no_grad()
    def _logits_of_trees(self, trees: Trees) -> Iterator[tuple[slice, Tensor]]:
        rows, length = trees.tokens.shape
        at_once = max(1, _MOST_LOGITS // (length * self.config.vocab_size))
        for first in range(0, rows, at_once):
            few = slice(first, first + at_once)
            part = trees._replace(
                tokens=trees.tokens[few],
                positions=trees.positions[few],
                ends=None if trees.ends is None else trees.ends[few],
            )
            bounds = torch.searchsorted(
                trees.at, torch.tensor([first, first + at_once], device=self.device) * length
            )
            asked = slice(*bounds.tolist())
            logits_NV = tree_logits(self.network, part).flatten(0, 1)
            yield asked, logits_NV[trees.at[asked] - first * length]

    def flops_per_token(self, seq_len: int) -> int:
        """6 N + 12 L C T as for the decoder, where the family says its layers L and width C."""
        # Looked up, not multiplied with; tied to the output layer it is both, and counts once.
        is_tied = json.loads(self.config.fields).get("tie_word_embeddings", True)
        table = 0 if is_tied else _network(self).get_input_embeddings().weight.numel()
        about = _network(self).config
        layers, width = getattr(about, "num_hidden_layers", 0), getattr(about, "hidden_size", 0)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return 6 * (parameters - table) + 12 * layers * width * seq_len

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def build_foreign(config: ForeignConfig, *, seed: int | None = 0) -> ForeignModel:
    """A model with random weights from ``seed``; None leaves them to be filled by the caller.

    Raises:
        ValueError: transformers does not know the family.
    """
    transformers = transformers_library()
    made = config_object(json.loads(config.fields), Path("config.json"))
    build = transformers.AutoModelForCausalLM.from_config
    attention = attention_of(config)
    if seed is None:
        with transformers.modeling_utils.no_init_weights():
            network = build(made, attn_implementation=attention)
        # Left out with the initial weights.
        network.tie_weights()
        return ForeignModel(network, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ForeignModel(build(made, attn_implementation=attention), config)


def adopt_foreign(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Make a checkpoint's ``weights`` the parameters of ``model``; no copy.

    Raises:
        CorruptError: A name or shape is not the model's; ``source`` says whose they are.
    """
    assert isinstance(model, ForeignModel)
    check_fit(weights_of(model), {name: t.shape for name, t in weights.items()}, source)
    # Not strict: of tied weights one name is stored, and the others are tied again.
    model.load_state_dict(weights, strict=False, assign=True)
    _network(model).tie_weights()


def check_fit(
    own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise CorruptError unless names and ``shapes`` are ``own``; ``source``: whose they are."""
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(shape) for name, shape in shapes.items()}
    if found != expected:
        odd = min(dict(found.items() ^ expected.items()))
        raise CorruptError(
            f"{source} does not fit the plan's model: {odd} must have shape {expected.get(odd)}, "
            f"found {found.get(odd)}; start from a model of the same architecture"
        )


def _network(model: ForeignModel) -> Any:
    return model.network


def _freeze_unused(network: nn.Module) -> None:
    """Exclude parameters without influence on the logits, which never get a gradient.

    Optimizer and data parallelism wait for a gradient of everything else.
    """
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=next(network.parameters()).device)
    with torch.enable_grad():
        waiting: list[Any] = [plain_logits(network, tokens).grad_fn]
    seen: set[Any] = set(waiting)
    used: set[int] = set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        found = {following for following, _ in node.next_functions if following is not None}
        waiting += found - seen
        seen |= found
    for parameter in network.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)
