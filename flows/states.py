"""How a flow run ends in Prefect's list of runs: the verdict is the state's name.

A verdict is no error, whatever it is: the run has done its work, so its state is of the type
Completed. Failed and Crashed are left for what somebody or something must mend.
"""

from typing import cast

from prefect.states import Completed

from flows.outcome import Kind, Outcome

STATE_NAMES: dict[Kind, str] = {
    "done": "Done",
    "nothing to do": "NothingToDo",
    "planned": "Planned",
    "skipped": "Skipped",
    "stopped": "Stopped",
    "decided": "Decided",
    "PASS": "PASS",
    "FAIL": "FAIL",
    "AMBIGUOUS": "AMBIGUOUS",
    "awaiting": "Awaiting",
    "left over": "LeftOver",
}


def ended(outcome: Outcome) -> Outcome:
    """What a flow returns: its final state, named after the outcome.

    Typed as the outcome, for that is what Prefect hands to whoever called the flow.
    """
    state = Completed(name=STATE_NAMES[outcome.kind], message=outcome.text, data=outcome)
    return cast(Outcome, state)
