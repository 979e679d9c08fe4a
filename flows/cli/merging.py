"""The command that merges models: graft."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import AsJson
from flows.cli.running import finish


def graft(
    base: Annotated[
        Path, typer.Argument(help="Directory of the base model that the other two come from.")
    ],
    instruct: Annotated[Path, typer.Argument(help="Directory of its instruct model.")],
    new_base: Annotated[
        str, typer.Argument(help="The base after updates: a directory, or a version.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not exist.")],
    lineage: Annotated[
        Path | None, typer.Option(help="The lineage's YAML file, when NEW_BASE is a version.")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Multiplies the instruct model's difference.", min=0, max=2)
    ] = 1.0,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN=]PATH",
            help="Judge the result against INSTRUCT on this file or directory; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Carry an instruct model over to a newer base: NEW_BASE + scale * (INSTRUCT - BASE)."""
    from flows.graft import Wanted, run_graft

    wanted = Wanted(
        base=base,
        instruct=instruct,
        new_base=new_base,
        out=out,
        lineage=lineage,
        scale=scale,
        texts=tuple(text or ()),
    )
    finish(run_graft(wanted, as_json=as_json), as_json=as_json)
