"""What of a lineage's YAML says which texts are kept out of training."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from infra.bounds import Bounds
from tasks.evaluations.config import TaskConfig
from training.config import FORBID_UNKNOWN


@dataclass(frozen=True, kw_only=True, slots=True)
class DecontaminateConfig:
    """Documents that give away items of tasks are dropped before anything is trained on them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    min_share: Annotated[float, Bounds(gt=0, le=1)] = 0.5
    """Share of an item's own n-grams (13 words, or the whole of a shorter item) that one document
    must have to be dropped."""
    against: tuple[TaskConfig, ...] = ()
    """Evaluation sets that are kept out besides the ``tasks`` of the suite."""
