"""The commands of the manual, as an operator would paste them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

MANUAL = Path(__file__).parents[2] / "docs" / "operating.md"


def blocks() -> list[str]:
    """Every fenced block of shell commands."""
    return re.findall(r"^```sh\n(.*?)^```", MANUAL.read_text(encoding="utf-8"), re.M | re.S)


def block_with(words: str) -> str:
    """The one block that holds ``words``."""
    (found,) = [block for block in blocks() if words in block]
    return found


def paste(block: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a block in a shell that ends with the first command that fails."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
