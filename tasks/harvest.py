"""Text that every installation already has: the demo's two domains, dealt out in parts.

Prose: the language reference that ships with Python, and docstrings of the installed scientific
packages.
Code: sources of the standard library, without their docstrings, so that the domains do not
overlap. Nothing is
downloaded or shipped. A part is a JSONL file; which files come next is a pure function of what is
installed.
"""

import ast
import gzip
import hashlib
import importlib.util
import json
import logging
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TypedDict

logger = logging.getLogger(__name__)

PROSE_PACKAGES = ("numpy", "scipy", "pandas", "sklearn")
MIN_PROSE_CHARS = 400
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "turtledemo", "site-packages", "lib2to3", "_vendor"}


class HarvestedDocument(TypedDict):
    """One line of a part."""

    id: str
    text: str
    module: str
    licence: str


def harvest_part(domain: str, part: int, folder: Path, *, part_chars: int) -> Path | None:
    """Write part ``part`` (from 1) of ``prose`` or ``code`` as JSONL.gz; returns its path.

    Each part holds about ``part_chars`` characters of whole modules. None when the installation has
    no more. Safe to repeat: a part that exists is kept.
    """
    path = folder / f"part-{part:02d}.jsonl.gz"
    if path.exists():
        return path
    files = _prose_files() if domain == "prose" else _code_files()
    documents = _documents_of_part(files, domain, part, part_chars)
    if not documents:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    # mtime=0: the same text gives the same bytes.
    with unfinished.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
        for document in documents:
            out.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    unfinished.rename(path)
    chars = sum(len(document["text"]) for document in documents)
    logger.info(
        f"harvested {len(documents):,} documents of {domain}, {chars / 1e6:.1f} M characters, "
        f"from {len({document['module'] for document in documents})} installed modules"
    )
    return path


def _documents_of_part(
    files: list[Path], domain: str, part: int, part_chars: int
) -> list[HarvestedDocument]:
    """Deal whole modules to parts in a fixed shuffled order, until each has its characters."""
    read = prose_of_file if domain == "prose" else code_of_file
    documents: list[HarvestedDocument] = _language_reference() if domain == "prose" else []
    current = 1
    chars = sum(len(document["text"]) for document in documents)
    for path in files:
        if chars >= part_chars:
            if current == part:
                return documents
            current, chars, documents = current + 1, 0, []
        found = read(path)
        documents.extend(found)
        chars += sum(len(document["text"]) for document in found)
    return documents if current == part else []


def _language_reference() -> list[HarvestedDocument]:
    from pydoc_data.topics import topics  # noqa: PLC0415  half a megabyte that only the demo needs

    return [
        {
            "id": f"reference:{name}",
            "text": text,
            "module": f"reference:{name}",
            "licence": "PSF-2.0",
        }
        for name, text in sorted(topics.items())
    ]


def prose_of_file(path: Path) -> list[HarvestedDocument]:
    """The longer docstrings of one source file; empty when it does not parse."""
    tree = _parsed(path)
    if tree is None:
        return []
    module = _module_name(path)
    licence = _licence_of(module.split(".")[0])
    return [
        {"id": f"{module}:{name}", "text": text, "module": module, "licence": licence}
        for name, text in _docstrings(tree)
        if len(text) >= MIN_PROSE_CHARS
    ]


def code_of_file(path: Path) -> list[HarvestedDocument]:
    """One source file without its docstrings; empty when it does not parse or little is left."""
    tree = _parsed(path)
    if tree is None:
        return []
    text = _without_docstrings(path.read_text(encoding="utf-8"), tree)
    if len(text) < MIN_PROSE_CHARS:
        return []
    module = _module_name(path)
    return [{"id": module, "text": text, "module": module, "licence": "PSF-2.0"}]


def _prose_files() -> list[Path]:
    files: list[Path] = []
    for package in PROSE_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            files += _python_files(Path(spec.origin).parent)
    return _shuffled(files)


def _code_files() -> list[Path]:
    return _shuffled(_python_files(Path(sysconfig.get_paths()["stdlib"])))


def _python_files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*.py"):
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            yield path


def _shuffled(files: Iterable[Path]) -> list[Path]:
    """In the order of a hash of their module names.

    The same on every machine with the same packages.
    """
    return sorted(files, key=lambda path: hashlib.sha256(_module_name(path).encode()).digest())


def _module_name(path: Path) -> str:
    roots = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")]
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
        # Some distributions ship templates that only look like sources.
        logger.debug(f"skipped {path}: {error}")
        return None


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and (text := ast.get_docstring(node)):
            name = "module" if isinstance(node, ast.Module) else f"{node.name}@{node.lineno}"
            yield name, text


def _without_docstrings(source: str, tree: ast.Module) -> str:
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            literal = node.body[0]
            # Other statements may share the literal's lines only in sources nobody writes.
            for number in range(literal.lineno - 1, (literal.end_lineno or literal.lineno)):
                lines[number] = "\0"
    return "\n".join(line for line in lines if line != "\0")


def _licence_of(package: str) -> str:
    try:
        info = metadata(_DISTRIBUTIONS.get(package, package)).json
    except PackageNotFoundError:
        return "unknown"
    licence = str(info.get("license_expression") or info.get("license") or "unknown")
    return licence.split("\n", maxsplit=1)[0][:80]
