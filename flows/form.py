"""The form in which a person decides over a version, on the page of a suspended Prefect run.

Prefect's own ``suspend_flow_run`` marks the run as suspended before it stores the form, and forgets
which questions were asked when a crashed run is started again. Here the form is stored first, and
every answer is found again by its key: whoever is killed when, the question is asked and the answer
is heard.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import uuid4

from prefect.client.orchestration import get_client
from prefect.exceptions import Abort, Pause
from prefect.input import RunInput, create_flow_run_input, read_flow_run_input
from prefect.input.run_input import Keyset, keyset_from_base_key
from prefect.runtime import flow_run
from prefect.states import Suspended
from prefect.utilities.engine import propose_state_sync
from pydantic import Field, ValidationError

Person = Annotated[str, Field(min_length=1, max_length=100)]
Comment = Annotated[str, Field(min_length=1, max_length=2000)]
"""No pattern against blanks: Prefect's pages would show that and no sentence. What is blank is
refused with the decision, and asked for again."""


class Answer(RunInput):
    """What a person decides over a version that waits."""

    decision: Annotated[
        Literal["approve", "reject"],
        Field(description="approve: publish it; reject: its data stays pending."),
    ]
    comment: Annotated[
        Comment, Field(description="Why; kept with the version, for whoever reads it later.")
    ]
    by: Annotated[Person, Field(description="Who decides: your name, kept with the decision.")]


@dataclass(frozen=True, slots=True)
class Heard:
    """What was asked about one verdict in this run, and what came back."""

    attempt: int
    """Number of the next question."""
    answer: Answer | None = None
    """The newest answer."""
    was_asked: bool = False
    complaint: str = ""
    """Why the newest answer could not be read."""


def hear(head: int) -> Heard:
    """What this run has asked about the verdict on ``head``. Safe to repeat."""
    heard = Heard(0)
    for attempt in itertools.count():
        keys = _keys(head, attempt)
        found = read_flow_run_input(keys["response"])
        if found is None:
            was_asked = attempt > 0 or read_flow_run_input(keys["schema"]) is not None
            return Heard(attempt, heard.answer, was_asked, heard.complaint)
        try:
            heard = Heard(attempt, Answer.model_validate(found))
        except ValidationError as error:
            heard = Heard(attempt, complaint=f"the answer could not be read: {_first(error)}")
    raise AssertionError  # counting does not end


def suspended(head: int, attempt: int, question: str) -> Pause:
    """Suspend this run until a person has filled the form; then it starts from its beginning.

    What is returned is to be raised: it ends the process, and the run waits without one.

    Args:
        head: Of the verdict that is asked about.
        attempt: From ``hear``.
        question: Markdown, shown above the form.

    Raises:
        ValueError: Nobody could start the run again.
    """
    keys = _keys(head, attempt)
    if read_flow_run_input(keys["schema"]) is None:
        # The description first: the form is complete as soon as there is a schema.
        if read_flow_run_input(keys["description"]) is None:
            create_flow_run_input(keys["description"], question)
        create_flow_run_input(keys["schema"], Answer.model_json_schema())
    # A key of its own each time: one that has fired before does not suspend.
    state: Any = Suspended(pause_key=str(uuid4()), message="waits for a person: press Resume")
    state.state_details.run_input_keyset = keys
    with get_client(sync_client=True) as client:
        try:
            accepted = propose_state_sync(client, state, flow_run_id=flow_run.id)  # pyright: ignore[reportArgumentType]
        except Abort as error:
            raise ValueError(
                f"this run cannot wait for an answer ({error}): start it in Prefect's pages from "
                "a deployment of 'perennial serve', or decide by 'perennial promote' or 'reject'"
            ) from error
    if not accepted.is_paused():
        raise ValueError(
            f"Prefect did not suspend this run, it is {accepted.name}: decide by 'perennial "
            "promote' or 'reject', or retry the run"
        )
    return Pause(state=accepted)


def head_asked_about(keys: Mapping[str, str] | None) -> int | None:
    """The head whose verdict a suspended run asks about; None when it asks nothing of ours."""
    _, _, rest = (keys or {}).get("schema", "").partition("suspended-head-")
    number = rest.partition("-")[0]
    return int(number) if number.isdecimal() else None


def _keys(head: int, attempt: int) -> Keyset:
    return keyset_from_base_key(f"suspended-head-{head}-{attempt}")


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
