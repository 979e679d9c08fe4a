"""What a person reads above the form: the verdict, its evidence, and what either answer does."""

from flows.ground import Ground
from flows.link import model_page
from flows.show import report_uri
from storage.head import VersionRecord


def question_text(ground: Ground, record: VersionRecord, complaint: str = "") -> str:
    """Markdown.

    Args:
        ground: Of the lineage.
        record: The version that waits.
        complaint: Why an earlier answer led to nothing; first of all then.
    """
    against = record.parent or "a unigram model"
    lines = [
        *([f"**{line}**" for line in complaint.splitlines()]),
        f"Publish version **{record.version}** of {ground.lineage.name}? Its verdict, against "
        f"{against}, is **{record.verdict}**: {record.reason}",
        f"- report: {_linked(report_uri(ground, record))}\n"
        f"- model version: {model_page(ground)}, the one with the tag `perennial.version = "
        f"{record.version}`\n"
        f"- by command: `perennial promote {record.version} --reason ...`, or `reject`",
        _consequences(record),
    ]
    return "\n\n".join(lines)


def _consequences(record: VersionRecord) -> str:
    if record.decision == "refused":
        return "Approve publishes it against its verdict. Reject leaves it refused."
    return (
        "Approve makes it the champion; when the champion has moved by then it is judged again "
        "first. Reject leaves its data pending: the next update takes it again, with what is new."
    )


def _linked(uri: str) -> str:
    return f"[{uri}]({uri})" if uri.startswith(("http://", "https://")) else f"`{uri}`"
