"""Which remedies a FAIL calls for. Pure.

=============================================  ====================================================
what the verdict has shown                      what is tried
=============================================  ====================================================
the candidate is broken (no numbers, silent)    nothing: no mean with it is sound; a person looks
no loss, but a gain below its margin            nothing: less of a change gains less still
a loss, and a gain below its margin             a lower peak: it was thrown off course
a loss                                          everything that is configured
nothing was learned from: a first version       nothing: there is no champion to merge with
=============================================  ====================================================
"""

from tasks.judge.verdict import Remedy, VerdictReport
from tasks.remedy.config import RemedyConfig

Attempt = tuple[Remedy, ...]


def attempts_for(report: VerdictReport, config: RemedyConfig) -> tuple[tuple[Attempt, ...], str]:
    """The attempts that may repair a candidate, in order, and in one sentence why so."""
    if report.verdict != "FAIL" or not config.order:
        return (), "No remedy is called for."
    if report.champion is None:
        return (), "A first version has no champion to be merged with or measured by."
    if report.health.problem or any(row.targets and row.difference is None for row in report.rows):
        return (), "The candidate is broken, and no merge with it is sound."
    violated = {row.test for row in report.rows if row.violated}
    if not violated & {"loss", "cumulative"}:
        return (), "Nothing old was shown to be lost; a remedy would only gain less."
    if "gain" in violated:
        gentler = tuple(attempt for attempt in config.order if attempt == ("lower_peak",))
        return gentler, "It lost and gained too little: only a gentler training can help."
    return config.order, "It learned and lost too much: what lies between may keep both."
