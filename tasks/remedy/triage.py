"""Which remedies a verdict calls for. Pure.

=============================================  ====================================================
what the verdict has shown                      what is tried
=============================================  ====================================================
the candidate computes no numbers               nothing: no mean with it is sound; a person looks
it has collapsed, loops or writes nothing       everything: halfway back it may be sound
no loss, but a gain below its margin            nothing: less of a change gains less still
a loss, and a gain below its margin             a lower peak: it was thrown off course
a loss                                          everything that is configured
a gain, and likely a loss (AMBIGUOUS)           the same: nobody answers a question every night
nothing was learned from: a first version       nothing: there is no champion to merge with
=============================================  ====================================================
"""

from tasks.judge.verdict import DomainRow, Remedy, VerdictReport
from tasks.remedy.config import RemedyConfig

Attempt = tuple[Remedy, ...]


def attempts_for(report: VerdictReport, config: RemedyConfig) -> tuple[tuple[Attempt, ...], str]:
    """The attempts that may repair a candidate, in order, and in one sentence why so."""
    if report.verdict == "PASS":
        return (), "No remedy is called for."
    if not config.order:
        return (), "remedy.order is empty: none is tried."
    if report.champion is None:
        return (), "A first version has no champion to be merged with or measured by."
    if not report.health.finite or any(
        row.targets and row.difference is None for row in report.rows
    ):
        return (), "The candidate is broken, and no merge with it is sound."
    if report.health.problem:
        return config.order, "It computes numbers: halfway back it may be sound."
    if report.verdict == "AMBIGUOUS":
        return _after_doubt(report, config)
    violated = {row.test for row in report.rows if row.violated}
    lost_answers = any(row.violated for row in report.task_rows)
    if not lost_answers and not violated & {"loss", "cumulative"}:
        return (), "Nothing old was shown to be lost; a remedy would only gain less."
    if "gain" in violated:
        gentler = tuple(attempt for attempt in config.order if attempt == ("lower_peak",))
        return gentler, "It lost and gained too little: only a gentler training can help."
    return config.order, "It learned and lost too much: what lies between may keep both."


def _after_doubt(report: VerdictReport, config: RemedyConfig) -> tuple[tuple[Attempt, ...], str]:
    gains = [row for row in report.rows if row.test == "gain"]
    if not gains or not all(row.passed for row in gains):
        return (), "No gain was shown, and a remedy would only gain less."
    likely = [
        row
        for row in report.rows
        if row.test in ("loss", "cumulative") and not row.passed and _is_likely(row)
    ]
    if not likely:
        return (), "What is in doubt is the noise of few items, which no remedy lessens."
    return config.order, "It learned and may have lost too much: what lies between may keep both."


def _is_likely(row: DomainRow) -> bool:
    """Whether the estimate is nearer to the margin than to nothing."""
    if row.difference is None or row.margin is None:
        return False
    return row.difference > row.margin / 2
