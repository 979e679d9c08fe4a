"""Whether what the deployment files name exists: commands, options, variables."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import yaml

from flows.cli import app
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
IMAGES = INFRA / "images"
KUBERNETES = INFRA / "kubernetes"
SECRET_NAME = re.compile(r"(PASSWORD|TOKEN|SECRET_KEY|AUTH_STRING|ACCESS_KEY_ID|_ACCESS_KEY)$")
"""Of variables whose values are secret."""

_SOURCES = {
    "MLFLOW_": ("mlflow.environment_variables", "mlflow.cli"),
    "RAY_": ("ray._private.ray_constants", "ray._private.authentication_test_utils"),
    "AWS_": ("botocore.configprovider", "botocore.credentials"),
    "HF_HUB_": ("huggingface_hub.constants",),
}
_OPTIONS_IN = {
    "ray start": ("ray.scripts.scripts",),
    "mlflow server": ("mlflow.cli", "mlflow.utils.cli_args"),
}
_ELSEWHERE = {
    # PostgreSQL's client library and the PostgreSQL image.
    "PGPASSWORD",
    "PGDATA",
    "POSTGRES_PASSWORD_FILE",
    "POSTGRES_INITDB_ARGS",
    # Python, pip, the shell.
    "PYTHONUNBUFFERED",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_CACHE_DIR",
    "HOME",
    # Several programs at once.
    "DO_NOT_TRACK",
    "RAY_USAGE_STATS_ENABLED",
}
_READ_BY_US = {"PREFECT_PASSWORD_FILE", "MLFLOW_PASSWORD_FILE"}
"""By postgres-init.sh, which a test runs."""


def load_yaml(path: Path) -> list[Any]:
    """All documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def project() -> dict[str, Any]:
    """Name, version, extras and scripts, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned() -> dict[str, str]:
    """Version by normalised name, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_from_files() -> set[str]:
    """Variables that with-secrets.sh sets from files."""
    text = (IMAGES / "with-secrets.sh").read_text(encoding="utf-8")
    listed = re.search(r"^for name in (.*?); do$", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    return set(listed[1].replace("\\\n", " ").split())


def check_perennial(argv: Sequence[str]) -> None:
    """Fail unless ``perennial`` takes these arguments; nothing is run."""
    group: Any = typer.main.get_command(app)
    assert argv, "perennial needs a command"
    command = group.commands.get(argv[0])
    assert command is not None, f"perennial has no command {argv[0]!r}; it has {[*group.commands]}"
    context = type(command).context_class(command, info_name=argv[0])
    values, rest, _ = command.make_parser(context).parse_args(list(argv[1:]))
    assert not rest, f"perennial {argv[0]} does not take {rest}"
    missing = [
        param.name for param in command.params if param.required and _is_empty(values, param)
    ]
    assert not missing, f"perennial {argv[0]} needs {missing}"


def _is_empty(values: dict[str, Any], param: Any) -> bool:
    return values.get(param.name) in (None, ())


def check_command(argv: Sequence[str]) -> None:
    """Fail unless the program, its command and its options exist in what is installed."""
    program, *rest = argv
    if program == "on-ray-node":
        # infra/images/on-ray-node.sh ADDRESS COMMAND...
        assert rest[0].count(":") == 1, argv
        check_command(rest[1:])
        return
    if program == "perennial":
        check_perennial(rest)
        return
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if program == "prefect":
        # Its options are made from the parameters of a function.
        assert rest[:2] == ["server", "start"], argv
        parameters = {
            "--" + name for name in re.findall(r"^    (\w+):", _source("prefect.cli.server"), re.M)
        }
        assert set(options) <= parameters, argv
        return
    assert f"{program} {rest[0]}" in _OPTIONS_IN, argv
    text = "".join(map(_source, _OPTIONS_IN[f"{program} {rest[0]}"]))
    unknown = [option for option in options if f'"{option}"' not in text]
    assert not unknown, f"{program} {rest[0]} does not take {unknown}"


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that no program reads."""
    known = _ELSEWHERE | _READ_BY_US
    known |= {f"PERENNIAL_{field.upper()}" for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in read_from_files()}
    left = sorted(set(names) - known)
    found = _settings_of_prefect() if any(name.startswith("PREFECT_") for name in left) else set()
    return [name for name in left if not (name in found or _is_spelled(name))]


def _is_spelled(name: str) -> bool:
    """Whether the modules that read variables of this prefix spell it."""
    # botocore appends the service's name.
    spelled = "AWS_ENDPOINT_URL" if name == "AWS_ENDPOINT_URL_S3" else name
    if re.fullmatch(r"RAY_[a-z_]+", name):
        return _is_setting_of_rays_core(name.removeprefix("RAY_"))
    modules = next((of for prefix, of in _SOURCES.items() if name.startswith(prefix)), ())
    return any(f'"{spelled}"' in text or f"'{spelled}'" in text for text in map(_source, modules))


@cache
def _is_setting_of_rays_core(name: str) -> bool:
    """Settings in lower case are compiled in; each is a word of its own there."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    core = Path(spec.origin).with_name("_raylet.so").read_bytes()
    return re.search(rb"(?<!\w)" + name.encode() + rb"(?!\w)", core) is not None


@cache
def _settings_of_prefect() -> set[str]:
    # In a process of its own: importing Prefect reads the environment, once.
    code = (
        "from prefect.settings import Settings; from prefect.settings.legacy import "
        "_get_settings_fields; print(*_get_settings_fields(Settings))"
    )
    environment = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


def _source(module: str) -> str:
    """Text of an installed module, found without importing it or its package's parents' modules."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*rest)
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
