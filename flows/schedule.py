"""When a lineage is updated without being asked, and what a second trigger does."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from infra.bounds import Bounds
from training.config import FORBID_UNKNOWN

WhenBusy = Literal["wait", "skip"]

WaitSeconds = Annotated[float, Bounds(ge=0, le=7 * 24 * 3600, unit="seconds")]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimetableConfig:
    """When ``perennial serve`` runs an update; without ``cron`` only people start one."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    cron: str | None = None
    """When an update starts: minute, hour, day of month, month, day of week; ``0 2 * * *`` is every
    night at two."""
    timezone: str = "UTC"
    """Time zone of ``cron``, by its IANA name, such as Europe/Berlin."""
    enabled: bool = True
    """False takes the schedule away; to pause it for a while, use its switch in Prefect's pages."""
    when_busy: WhenBusy = "wait"
    """What a run does while another one works on this lineage: wait for its turn, or skip (end at
    once, saying so)."""
    wait_seconds: WaitSeconds = 86400
    """Longest wait for another run that works on this lineage; what waited in vain has failed."""

    def __post_init__(self) -> None:
        if self.cron is not None:
            _check_cron(self.cron)
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"timezone {self.timezone!r} is not known: use an IANA name such as Europe/Berlin"
            ) from error


def _check_cron(cron: str) -> None:
    # Not at the top: importing anything of Prefect takes half a second, and most have no schedule.
    from prefect.client.schemas.schedules import CronSchedule  # noqa: PLC0415

    problem = (
        f"cron {cron!r} is not understood: expected minute, hour, day of month, month and day of "
        "the week, such as '0 2 * * *' for every night at two"
    )
    if len(cron.split()) != 5:
        raise ValueError(problem)
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ValueError(problem) from error
