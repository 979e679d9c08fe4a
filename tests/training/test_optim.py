"""The optimizer: torch's AdamW, without what takes torch's long to start."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from training.config import OptimizerConfig
from training.optim import build_optimizer

_STEP = """
import sys
import torch
from torch import nn
from training.config import OptimizerConfig
from training.optim import build_optimizer

model = nn.Linear(2, 2)
optimizer = {made}
model(torch.ones(2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
"""


def _imports_the_compiler(made: str) -> bool:
    command = [sys.executable, "-c", _STEP.format(made=made)]
    root = Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return found.stdout.strip() == "True"


def test_a_step_does_not_import_the_compiler() -> None:
    """Nor is what avoids it needed any more, once torch's own optimizer does not either."""
    assert not _imports_the_compiler("build_optimizer(model, OptimizerConfig())")
    assert _imports_the_compiler("torch.optim.AdamW(model.parameters(), fused=True)")


def test_its_steps_have_the_bits_of_torchs() -> None:
    config = OptimizerConfig(weight_decay=0.1)
    ours, theirs = (nn.Linear(33, 7) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(
        groups, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=0.1, fused=True
    )
    optimizer = build_optimizer(ours, config)
    for step in range(5):
        x = torch.randn(4, 33, generator=torch.Generator().manual_seed(step))
        for model, each in ((ours, optimizer), (theirs, reference)):
            for group in each.param_groups:
                group["lr"] = 0.01 * (step + 1)
            model(x).square().sum().backward()
            each.step()
            each.zero_grad()

    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert torch.is_grad_enabled()
