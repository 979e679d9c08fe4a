"""How often a remedy that breaks its margin passes: what the halves are there for."""

import math

import numpy as np
import numpy.typing as npt

from tasks.judge.bootstrap import sample_ratio
from tasks.judge.halves import half_of
from tasks.judge.verdict import CheckConfig

TRIALS, MODELS, RESAMPLES = 200, 8, 499
MARGIN, ALPHA = CheckConfig().max_loss_nats, CheckConfig().alpha
CLUSTERS = [f"work-{number}" for number in range(80)]
SELECTS = np.array([half_of(cluster) == "select" for cluster in CLUSTERS])
TARGETS = 1000


def bound(changes: npt.NDArray[np.float64]) -> float:
    """Upper bound of a model's loss from the change of each cluster, nats per token."""
    sums = {str(number): (TARGETS * change, TARGETS) for number, change in enumerate(changes)}
    upper = sample_ratio(sums, resamples=RESAMPLES).upper(ALPHA)
    assert upper is not None
    return upper


def test_models_at_the_margin_pass_as_seldom_as_promised_only_where_they_were_not_chosen() -> None:
    """All of many models lose exactly what is tolerated; the one that looks best is judged."""
    rng = np.random.default_rng(11)
    on_the_other_half = on_the_same = 0
    for _ in range(TRIALS):
        changes = MARGIN + rng.normal(0, 0.1, size=(MODELS, len(CLUSTERS)))
        bounds = [bound(model[SELECTS]) for model in changes]
        best = int(np.argmin(bounds))
        on_the_same += bounds[best] <= MARGIN
        on_the_other_half += bound(changes[best][~SELECTS]) <= MARGIN
    # Alpha plus three standard errors of a rate over so many trials.
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / TRIALS)
    assert on_the_other_half / TRIALS <= limit
    # Eight independent looks: 1 - 0.95 ** 8 is a third.
    assert on_the_same / TRIALS > 0.2
