import subprocess
import sys
from pathlib import Path

import pytest

from infra.compiled import compiled

CALLER = """
from infra.compiled import compiled
from callee import callee
@compiled
def caller(): return callee() + 1
print(caller(), sum(caller.stats.cache_hits.values()))
"""
CALLEE = """
from infra.compiled import compiled
@compiled
def callee(): return {value}
"""


def _run(folder: Path) -> str:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import caller"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_machine_code_is_kept_until_any_file_beside_its_source_changes(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "callee.py").write_text(CALLEE.format(value=1))
    assert _run(tmp_path) == "2 0"
    assert _run(tmp_path) == "2 1"
    (tmp_path / "callee.py").write_text(CALLEE.format(value=5))
    assert _run(tmp_path) == "6 0"


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])

    @compiled
    def double(number: int) -> int:
        return 2 * number

    assert double(21) == 42
    assert "set NUMBA_CACHE_DIR" in caplog.text
