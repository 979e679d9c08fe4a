"""Where models are scored: this process, or the lineage's Ray. Loads neither torch nor Ray."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.train import ComputeConfig

if TYPE_CHECKING:
    from training.cluster.pool import Pool
    from training.cluster.scoring import ScoringBatch, ScoringJob

LITTLE_FLOPS = 5e12
"""Operations that are done in this process rather than on a Ray that has to be started or joined
first, which takes 10 to 15 s: about half a minute of two cores."""
BATCHES_A_WORKER = 4
"""At least, so that a slow worker does not keep the others waiting for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where models are scored. Has no influence on the scores."""

    store_uri: str = ""
    """Of the store, for workers on other machines."""
    compute: ComputeConfig = field(default_factory=lambda: ComputeConfig(num_workers=0))
    """``num_workers`` 0 scores in this process."""
    ray_address: str = ""

    @property
    def most_workers(self) -> int:
        """As many as the training has."""
        asked = self.compute.num_workers
        return asked if isinstance(asked, int) else asked[1]

    @property
    def has_more(self) -> bool:
        """Whether Ray has anything that this process has not."""
        return self.most_workers > 1 or (self.most_workers == 1 and bool(self.ray_address))

    @property
    def num_threads(self) -> int:
        """Units or parts at a time on the processors of this machine."""
        return self.compute.threads_per_worker or os.cpu_count() or 1

    def pool(self, what: str) -> "Pool":
        """The workers of the lineage's Ray, for ``what`` they do."""
        from training.cluster.pool import Pool  # noqa: PLC0415  only where Ray is used

        return Pool(
            what=what,
            num_workers=self.most_workers,
            address=self.ray_address or None,
            max_failures=self.compute.max_failures,
            wait_seconds=self.compute.wait_seconds,
            use_gpu=self.compute.use_gpu,
        )


def scoring_job(
    place: Place, work_dir: Path, batches: "Sequence[ScoringBatch]", **texts: Any
) -> "ScoringJob":
    """What the lineage's Ray is asked to score.

    Args:
        place: The Ray.
        work_dir: For local copies, on whatever machine; created there.
        batches: Of units or of parts.
        texts: Of the ``ScoringJob``: folders, or parts and tokenizer.
    """
    from training.cluster.scoring import ScoringJob  # noqa: PLC0415  only where Ray is used

    return ScoringJob(
        store_uri=place.store_uri,
        batches=tuple(batches),
        work_dir=work_dir,
        num_threads=max(1, place.num_threads // place.most_workers),
        use_gpu=place.compute.use_gpu,
        **texts,
    )
