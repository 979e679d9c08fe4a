"""Commands by which a person decides: promote, reject, rollback, unhold."""

from typing import Annotated

import typer

from flows.cli.arguments import DEFAULT_FILE, AsJson, LineageFile, Reason, Version
from flows.cli.running import finish, run


def promote(
    version: Version, reason: Reason, lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False
) -> None:
    """Make a version the champion, by a person's decision."""
    from flows.review import promote_version

    finish(
        run(promote_version, lineage_file=lineage, version=version, reason=reason), as_json=as_json
    )


def reject(
    version: Version, reason: Reason, lineage: LineageFile = DEFAULT_FILE, as_json: AsJson = False
) -> None:
    """Turn an AMBIGUOUS version down; its data stays pending."""
    from flows.review import reject_version

    finish(
        run(reject_version, lineage_file=lineage, version=version, reason=reason), as_json=as_json
    )


def rollback(
    reason: Reason,
    lineage: LineageFile = DEFAULT_FILE,
    to: Annotated[
        str | None, typer.Option(help="Version to go back to; default: the champion before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier champion, its trunk and its replay; what was learned since is held."""
    from flows.review import rollback_lineage

    finish(run(rollback_lineage, lineage_file=lineage, to=to, reason=reason), as_json=as_json)


def unhold(
    snapshot: Annotated[str, typer.Argument(help="Id of a held snapshot.")],
    reason: Reason,
    lineage: LineageFile = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Let a snapshot that a rollback held be trained on again."""
    from flows.review import unhold_snapshot

    finish(
        run(unhold_snapshot, lineage_file=lineage, snapshot=snapshot, reason=reason),
        as_json=as_json,
    )
