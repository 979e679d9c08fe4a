"""What becomes of a run that crashed."""

from datetime import UTC, datetime, timedelta

import pytest
from prefect import State
from prefect.client.schemas.objects import StateType
from prefect.states import (
    AwaitingRetry,
    Cancelling,
    Crashed,
    Pending,
    Running,
    Scheduled,
    Suspended,
)
from prefect.utilities.callables import parameter_schema

from flows.recovery import RESUMING, RESUMPTIONS, end_of_stuck, next_state, refusal
from flows.update import update_model

NOW = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


def history(*states: State, minutes_apart: float = 5) -> list[State]:
    """The states of a run, oldest first, the last one now."""
    return [
        state.model_copy(update={"timestamp": NOW - timedelta(minutes=minutes_apart * age)})
        for age, state in zip(reversed(range(len(states))), states, strict=True)
    ]


def crash(times: int) -> list[State]:
    resumed = [state for _ in range(times - 1) for state in (Scheduled(name=RESUMING), CRASHED)]
    return [Scheduled(), Running(), CRASHED, *resumed]


CRASHED = Crashed(message="Process exited with status code: -9.")


def test_a_crashed_run_goes_on_at_once_and_says_why() -> None:
    state = next_state(history(*crash(1)), NOW)
    assert (state.name, state.state_details.scheduled_time) == (RESUMING, NOW)
    assert state.message == (
        "crashed: Process exited with status code: -9. Goes on from the newest checkpoint, by "
        "itself (1 of at most 3 times a day)."
    )


def test_what_crashes_again_waits_longer_and_in_the_end_for_a_person() -> None:
    states = [next_state(history(*crash(times)), NOW) for times in range(1, RESUMPTIONS + 2)]
    waits = [state.state_details.scheduled_time for state in states[:-1]]
    assert waits == sorted(set(waits), key=lambda wait: wait or NOW)
    assert states[-1].is_failed()
    assert "crashed 4 times within a day" in (states[-1].message or "")
    assert "press Retry" in (states[-1].message or "")


def test_a_person_who_retries_gives_all_attempts_back() -> None:
    states = history(*crash(RESUMPTIONS + 1), AwaitingRetry(), Running(), CRASHED)
    assert next_state(states, NOW).name == RESUMING


def test_crashes_of_another_day_do_not_count() -> None:
    states = history(*crash(RESUMPTIONS + 1), minutes_apart=25 * 60)
    assert next_state(states, NOW).name == RESUMING


def test_a_question_that_is_taken_for_a_crash_is_open_again_without_a_process() -> None:
    asked: State = Suspended(pause_key="k", message="waits for a person")
    asked.state_details.run_input_keyset = {"schema": "s", "response": "r", "description": "d"}
    for earlier in ((), crash(RESUMPTIONS + 1)):
        state = next_state(history(*earlier, Running(), asked, CRASHED), NOW)
        assert (state.type, state.name, state.message) == (asked.type, asked.name, asked.message)
        assert state.state_details.run_input_keyset == asked.state_details.run_input_keyset
        assert state.state_details.pause_timeout is None
    # One that was answered, and crashed while it did what it was told, goes on like any other.
    answered = history(asked, Scheduled(name=RESUMING), Running(), CRASHED)
    assert next_state(answered, NOW).name == RESUMING


@pytest.mark.parametrize(
    ("state", "patience", "end"),
    [
        (Pending(), timedelta(minutes=5), StateType.CRASHED),
        (Cancelling(), timedelta(minutes=2), StateType.CANCELLED),
    ],
)
def test_a_run_whose_runner_died_between_two_states_ends(
    state: State, patience: timedelta, end: StateType
) -> None:
    begun = state.model_copy(update={"timestamp": NOW})
    assert end_of_stuck(begun, NOW + patience - timedelta(seconds=1)) is None
    ended = end_of_stuck(begun, NOW + patience)
    assert ended is not None
    assert (ended.type, ended.message) == (end, "its runner died meanwhile.")


@pytest.mark.parametrize("state", [Scheduled(), Running(), AwaitingRetry()])
def test_a_run_may_wait_and_work_as_long_as_it_likes(state: State) -> None:
    assert end_of_stuck(state, datetime.now(UTC) + timedelta(days=30)) is None


def test_a_run_with_parameters_that_its_flow_has_not_is_not_started_again() -> None:
    form = parameter_schema(update_model).model_dump()
    assert refusal(["lineage_file", "dry_run"], form) is None
    refused = refusal(["lineage_file", "epochs", "color"], form)
    assert refused is not None
    assert refused.is_failed()
    assert refused.message == (
        "parameters must be of branch_from, cooldown_tokens, dry_run, lineage_file, take_over, "
        "wait_seconds, when_busy; found color, epochs as well: start another run without them."
    )
