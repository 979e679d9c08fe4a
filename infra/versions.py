"""Versions: floors below which packages are refused at start, and the version of our own code."""

import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SECURITY_FLOORS = {
    # CVE-2025-32434 and CVE-2026-24747: loading weights runs code or corrupts memory.
    "torch": (2, 10),
    # CVE-2025-62593: a web page can submit jobs to a local Ray.
    "ray": (2, 52),
    # CVE-2026-2635, CVE-2026-2652, CVE-2026-3198: default password, routes without authentication.
    "mlflow": (3, 11),
}


class UnsafeVersionError(Exception):
    """An installed package is below its security floor."""


def check_security_floors(installed: Callable[[str], str] = version) -> None:
    """Raise UnsafeVersionError naming every package below its floor; absent packages pass."""
    problems: list[str] = []
    for package, floor in SECURITY_FLOORS.items():
        try:
            found = installed(package)
        except PackageNotFoundError:
            continue
        if _release(found) < floor:
            wanted = ".".join(map(str, floor))
            problems.append(f"{package} {found} (needs at least {wanted})")
    if problems:
        raise UnsafeVersionError(
            "refusing to start with packages that have known security holes: "
            f"{', '.join(problems)}; "
            "install the versions of constraints.txt"
        )


def code_version() -> str:
    """Our version and the first 12 hex digits of the hash of our sources: ``0.1.0+3f9a...``.

    Two commits of one version differ, and an edited installation gives itself away.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in ("flows", "infra", "storage", "tasks", "training"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return f"{version('perennial')}+{digest.hexdigest()[:12]}"


def _release(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split("+", maxsplit=1)[0].split(".")[:2]:
        digits = "".join(ch for ch in part if ch.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
