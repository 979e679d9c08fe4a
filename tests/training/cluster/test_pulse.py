"""A rank's own work is measured without what it waits for others, and without changing a bit."""

import time

import torch
from torch import nn

from training.cluster.pulse import PHASES, Pulse


class Model(nn.Module):
    """A matrix, and a clock's patience in each pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self._seconds = seconds

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        time.sleep(self._seconds)
        return (row @ self.matrix).sum()


def step(pulse: Pulse, model: Model, optimizer: torch.optim.Optimizer, waits: float) -> list[str]:
    """Two micro batches; returns where the pulse says that it is, from place to place."""
    places = [pulse.read().where]
    pulse.begin_step()
    places.append(pulse.read().where)
    time.sleep(waits)
    for _ in range(2):
        loss = model(torch.ones(2))
        places.append(pulse.read().where)
        loss.backward()
    places.append(pulse.read().where)
    time.sleep(waits)
    optimizer.step()
    return places


def test_a_pulse_tells_the_step_and_its_phase() -> None:
    model = Model(0.0)
    optimizer = torch.optim.SGD(model.parameters())
    pulse = Pulse(3)
    pulse.watch(model, optimizer, 40)
    before, waiting, forward, again, exchange = step(pulse, model, optimizer, 0.0)
    assert before == f"in step 40, {PHASES[3]}"
    assert waiting == f"in step 41, {PHASES[0]}"
    assert forward == again == f"in step 41, {PHASES[1]}"
    assert exchange == f"in step 41, {PHASES[2]}"
    assert pulse.read().where == f"in step 41, {PHASES[3]}"
    assert pulse.read().count == 7


def test_what_happens_before_the_first_step_is_told_until_that_step_is_taken() -> None:
    model = Model(0.0)
    optimizer = torch.optim.SGD(model.parameters())
    pulse = Pulse(0)
    assert pulse.read().stage == "starting"
    pulse.begin_stage("loading the weights")
    pulse.watch(model, optimizer, 0)
    step(pulse, model, optimizer, 0.0)
    assert pulse.read().stage == "loading the weights"
    step(pulse, model, optimizer, 0.0)
    assert pulse.read().stage == ""


def test_waiting_for_others_is_not_a_ranks_own_work() -> None:
    own: list[float] = []
    for forward_seconds, waits in ((0.05, 0.0), (0.0, 0.05)):
        model = Model(forward_seconds)
        optimizer = torch.optim.SGD(model.parameters())
        pulse = Pulse(0)
        pulse.watch(model, optimizer, 0)
        for _ in range(4):
            step(pulse, model, optimizer, waits)
        pulse.begin_step()
        assert pulse.read().num_steps == 4
        own.append(pulse.read().busy_seconds)
    assert own[0] >= 4 * 2 * 0.05
    assert own[1] < own[0] / 2
