"""Named, complete recipes. A lineage's YAML names one and may override single fields.

A variant is a function that calls another and replaces what differs.
"""

from collections.abc import Callable
from dataclasses import replace

from training.config import Recipe, ScheduleConfig


def rewarm_cosine() -> Recipe:
    """Re-warm, then decay as a cosine to a tenth: the default of continual pretraining.

    With replay it matches retraining on the union at about half the cost (Ibrahim et al. 2024,
    arXiv:2403.08763). The peak is that of the paper's smaller model.
    """
    return Recipe(schedule=ScheduleConfig(kind="cosine", eta_max=3e-4, warmup_fraction=0.01))


def infinite() -> Recipe:
    """Never re-warm: a constant trunk, and an annealed release for every update.

    For many small updates (Singh et al. 2025, arXiv:2503.02844): the trunk before the anneal is
    what the next update continues from.
    """
    recipe = rewarm_cosine()
    schedule = replace(recipe.schedule, kind="infinite", decay_fraction=0.15)
    return replace(recipe, schedule=schedule)


def wsd() -> Recipe:
    """Warm up, stay, and decay over the last fifth as 1 - sqrt.

    (Hägele et al. 2024, arXiv:2405.18392).
    """
    recipe = rewarm_cosine()
    return replace(recipe, schedule=replace(recipe.schedule, kind="wsd", eta_min_ratio=0.0))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "rewarm-cosine": rewarm_cosine,
    "infinite": infinite,
    "wsd": wsd,
}
