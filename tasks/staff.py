"""Who prepares the documents of a refresh: this process, or workers of the lineage's Ray."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from training.cluster.pool import Pool

LITTLE_BYTES = 64_000_000
"""Of source files, which this process reads in the time that Ray takes to start."""
LITTLE_SCORED_BYTES = 1_000_000
"""Of those of which a model reads the beginnings, which takes a hundred times as long."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Staff:
    """Those who prepare one refresh."""

    pool: "Pool | None" = None
    """None: this process."""

    @property
    def is_here(self) -> bool:
        """Whether this process does it."""
        return self.pool is None

    def apply(
        self, make: Callable[[], Callable[[Item], Result]], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the workers make of each item, in the order of the items.

        Args:
            make: Makes the function in a worker; pickled, as items and results are.
            items: Taken as workers have need of them.

        Raises:
            TrainingError: Too many workers were lost, or there was no room for one.
        """
        from training.cluster.pool import map_on_ray  # noqa: PLC0415  only where Ray is used

        assert self.pool is not None
        waiting: dict[int, Result] = {}
        following = 0
        for number, result in map_on_ray(make, items, self.pool):
            waiting[number] = result
            while following in waiting:
                yield waiting.pop(following)
                following += 1


@dataclass(frozen=True, slots=True)
class Workers:
    """Who may be employed."""

    pool: "Pool | None" = None

    def for_bytes(self, num_bytes: int, *, are_scored: bool) -> Staff:
        """Those who prepare so many bytes of source files, and score them by a model or do not."""
        little = LITTLE_SCORED_BYTES if are_scored else LITTLE_BYTES
        return Staff(self.pool if num_bytes > little else None)
