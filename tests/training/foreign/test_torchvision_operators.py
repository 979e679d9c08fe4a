import importlib
import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from training.foreign.torchvision_operators import declare_missing_operators

# A process of its own: the fault shows only at the first import of torchvision in a process.
_PROBE = """
import json
import sys

fault = ""
try:
    import streaming
except RuntimeError as error:
    fault = str(error)

from training.foreign.torchvision_operators import declare_missing_operators

declare_missing_operators()
declare_missing_operators()
import streaming
from transformers import LlamaForCausalLM

json.dump(
    {"fault": fault, "writer": streaming.MDSWriter.__name__, "model": LlamaForCausalLM.__name__},
    sys.stdout,
)
"""


def test_streaming_and_transformers_import_with_the_operators_and_not_without() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["writer"], found["model"]) == ("MDSWriter", "LlamaForCausalLM")
    if torch.version.cuda is None:
        assert found["fault"] == "operator torchvision::nms does not exist", (
            "upstream mended it: training/foreign/torchvision_operators.py and its callers can go"
        )


def test_nothing_happens_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []

    def absent(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    monkeypatch.setattr(importlib, "import_module", imported.append)
    declare_missing_operators()
    assert imported == []


def test_another_fault_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError(f"{name} was compiled for another torch")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="torchvision was compiled for another torch"):
        declare_missing_operators()
