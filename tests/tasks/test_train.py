import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.train import ComputeConfig, MetricRelay, Metrics

Receive = Callable[[list[Metrics]], None]


def rows(*steps: int) -> list[Metrics]:
    return [{"step": step} for step in steps]


class Receiver:
    """Takes what it is given, and fails as often as it is told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.steps: list[int] = []
        self.made = 0
        self.failures = failures
        self.recovered = threading.Event()

    def make(self) -> Receive:
        self.made += 1
        if self.made > self.failures:
            self.recovered.set()
        return self.receive

    def receive(self, batch: list[Metrics]) -> None:
        if self.made <= self.failures:
            raise ConnectionError("MLflow at http://ann:secret@away does not answer")
        self.steps += [metrics["step"] for metrics in batch]


def test_everything_is_delivered_in_order_before_the_relay_is_closed() -> None:
    receiver = Receiver()
    relay = MetricRelay(receiver.make)
    for step in range(100):
        relay(rows(step))
    relay.close()
    assert receiver.steps == list(range(100))


def test_a_receiver_that_failed_is_made_again_and_gets_what_comes_later() -> None:
    receiver = Receiver(failures=1)
    relay = MetricRelay(receiver.make, first_pause_seconds=0.01)
    relay(rows(1))
    assert receiver.recovered.wait(30)
    relay(rows(2))
    relay.close()
    # The first step is in the store, from which the receiver replays it when it is made.
    assert receiver.steps == [2]
    assert receiver.made == 2


def test_closing_a_relay_whose_receiver_is_away_tells_why_and_does_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = Receiver(failures=10)
    relay = MetricRelay(receiver.make, first_pause_seconds=3600)
    relay(rows(1))
    with pytest.raises(ConnectionError, match="does not answer"):
        relay.close()
    assert "no curves for now, training goes on" in caplog.text
    assert "secret" not in caplog.text


def test_closing_a_relay_whose_receiver_hangs_waits_only_so_long() -> None:
    release = threading.Event()

    def make() -> Receive:
        release.wait(30)
        return lambda _batch: None

    relay = MetricRelay(make)
    relay(rows(1))
    with pytest.raises(TimeoutError, match=r"not everything was taken within 0\.05 s"):
        relay.close(wait_seconds=0.05)
    release.set()


def test_what_waits_is_handed_over_at_once() -> None:
    release, batches = threading.Event(), list[int]()

    def receive(batch: list[Metrics]) -> None:
        release.wait(30)
        batches.append(len(batch))

    relay = MetricRelay(lambda: receive)
    for step in range(50):
        relay(rows(step))
    release.set()
    relay.close()
    assert sum(batches) == 50
    assert len(batches) <= 3


@pytest.mark.parametrize(("given", "taken"), [(0, 0), (3, 3), ([1, 4], (1, 4)), ((2, 2), (2, 2))])
def test_workers_are_a_number_or_the_fewest_and_the_most(given: Any, taken: Any) -> None:
    config = TypeAdapter(ComputeConfig).validate_python({"num_workers": given})
    assert config.num_workers == taken


@pytest.mark.parametrize("given", [-1, True, "two", 1.0, [4, 1], [0, 2], [1], [1, 2, 3], None])
def test_what_is_no_number_of_workers_is_refused_with_one_sentence(given: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"fewest and the most workers, as in \[1, 4\], got"
    ) as error:
        TypeAdapter(ComputeConfig).validate_python({"num_workers": given})
    assert error.value.error_count() == 1
