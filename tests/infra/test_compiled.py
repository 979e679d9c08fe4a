import os
import subprocess
import sys
from pathlib import Path

_MODULE = """\
from infra.compiled import compiled


@compiled
def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""


def _run(folder: Path, **environment: str) -> str:
    (folder / "summing.py").write_text(_MODULE)
    statement = "import numpy, summing; print(summing.total(numpy.arange(5)))"
    done = subprocess.run(
        [sys.executable, "-c", statement],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{folder}", **environment},
    )
    return done.stdout.strip()


def test_machine_code_is_kept_between_processes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert _run(tmp_path, NUMBA_CACHE_DIR=str(cache)) == "10"
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")}
    assert len(kept) == 1
    assert _run(tmp_path, NUMBA_CACHE_DIR=str(cache)) == "10"
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")} == kept


def test_what_finds_no_place_for_machine_code_compiles_it_again(
    tmp_path: Path,
) -> None:
    # A locator that never fits: as when neither the installation nor the home can be written.
    assert _run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES="_ZipCacheLocator") == "10"
    assert not list(tmp_path.rglob("*.nbc"))
