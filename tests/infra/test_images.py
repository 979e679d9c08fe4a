"""The Dockerfile and its scripts, by structure: no container engine is needed, or used."""

import re
import shlex
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.deployment import (
    IMAGES,
    ROOT,
    SECRET_NAME,
    check_command,
    normalised,
    pinned,
    project,
    read_from_files,
    unknown_variables,
)

Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Instructions by stage, continuation lines joined, inherited ones not repeated."""
    text = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found: dict[str, list[Instruction]] = {"": []}
    stage = ""
    for line in filter(str.strip, lines):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stage = rest.split()[-1]
            found[stage] = []
        found[stage].append((name, rest.strip()))
    return found


def of_kind(kind: str) -> list[str]:
    return [
        rest for instructions in stages().values() for name, rest in instructions if name == kind
    ]


def test_everything_that_is_copied_exists_and_goes_to_the_builder() -> None:
    ignored = (IMAGES / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [
        word
        for rest in of_kind("COPY")
        for word in [word for word in rest.split() if not word.startswith("--")][:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in kept, source


def test_secrets_of_a_checkout_do_not_go_to_the_builder() -> None:
    ignored = (IMAGES / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignored[1] == "*"
    assert ignored.index("infra/secrets") > ignored.index("!infra")
    assert ignored.index("infra/.env") > ignored.index("!infra")


@pytest.mark.parametrize("target", ["servers", "perennial"])
def test_no_image_runs_as_root_and_each_has_the_entry_point(target: str) -> None:
    instructions = stages()[target]
    users = [rest for name, rest in instructions if name == "USER"]
    assert users == ["10001:10001"]
    kinds = [name for name, _ in instructions]
    assert kinds.index("USER") > max(i for i, name in enumerate(kinds) if name in ("RUN", "COPY"))
    assert ("ENTRYPOINT", '["with-secrets"]') in instructions


def test_what_the_images_run_by_default_exists() -> None:
    scripts = {script.name for script in entry_points(group="console_scripts")}
    scripts |= set(project()["scripts"])
    for rest in of_kind("CMD"):
        program = shlex.split(rest.strip("[]").replace(",", " "))[0]
        assert program in scripts
    assert {"prefect", "mlflow", "ray", "perennial"} <= scripts


def test_every_installed_version_comes_from_the_constraints() -> None:
    versions = pinned()
    installs = [
        command
        for rest in of_kind("RUN")
        for command in re.findall(r"python -m pip install ([^;&]*)", rest)
    ]
    assert len(installs) == 3
    for command in installs:
        words = shlex.split(command)
        assert words[:2] == ["-c", "constraints.txt"], command
        packages = [w for w in words[2:] if not w.startswith(("-", "$")) and w != "."]
        for package in packages:
            assert normalised(package.split("[")[0]) in versions, package


def test_the_image_of_python_is_the_version_that_the_project_needs() -> None:
    (image,) = [rest.partition("=")[2] for name, rest in stages()[""] if name == "ARG"]
    assert image == "python:3.11-slim"
    assert project()["requires-python"].startswith(">=3.11,")


def test_no_secret_and_no_address_is_built_in() -> None:
    for instructions in stages().values():
        for name, rest in instructions:
            assert "://" not in rest, f"{name} {rest}"
            if name in ("ENV", "ARG"):
                names = re.findall(r"([A-Z][A-Z0-9_]+)=", rest)
                assert not [n for n in names if SECRET_NAME.search(n)]


def test_every_variable_of_the_images_is_read_by_something() -> None:
    names = [name for rest in of_kind("ENV") for name in re.findall(r"([A-Z][A-Z0-9_]+)=", rest)]
    assert len(names) > 5
    assert unknown_variables(names) == []


def test_the_example_builds_of_the_head_comment_name_targets_and_the_version() -> None:
    text = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
    builds = re.findall(r"--target (\w+)\s+-t ([\w-]+):(\S+)", text)
    assert {target for target, _, _ in builds} == {"servers", "perennial"}
    assert {version for _, _, version in builds} == {project()["version"]}


def run_with_secrets(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    script = IMAGES / "with-secrets.sh"
    program = "import os; print(os.environ.get('PGPASSWORD'), 'PGPASSWORD_FILE' in os.environ)"
    return subprocess.run(
        ["sh", str(script), "python3", "-c", program],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_gets_the_secret_that_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('it\'s $HOME `x` "quoted"\n')
    ended = run_with_secrets(tmp_path, PGPASSWORD_FILE=str(tmp_path / "secret"))
    assert (ended.stdout, ended.stderr) == ('it\'s $HOME `x` "quoted" False\n', "")
    assert run_with_secrets(tmp_path).stdout == "None False\n"


def test_a_secret_that_cannot_be_read_or_is_empty_ends_the_start(tmp_path: Path) -> None:
    ended = run_with_secrets(tmp_path, PGPASSWORD_FILE=str(tmp_path / "none"))
    assert ended.returncode == 1
    assert re.fullmatch(r"error: PGPASSWORD_FILE names \S+/none, .*cannot read\n", ended.stderr)
    (tmp_path / "empty").touch()
    ended = run_with_secrets(tmp_path, PGPASSWORD_FILE=str(tmp_path / "empty"))
    assert ended.returncode == 1
    assert ended.stderr.endswith("which is empty\n")


def test_every_secret_that_is_read_from_a_file_is_a_secret_that_a_program_reads() -> None:
    assert all(SECRET_NAME.search(name) for name in read_from_files())
    assert unknown_variables(read_from_files()) == []


def beside_a_node(
    tmp_path: Path, node: str, *command: str, health: str = "exit 0"
) -> "subprocess.Popen[str]":
    """Runs on-ray-node with a ``ray`` that is the shell script ``node``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # Python asks for the node's health.
    for name, text in {"ray": node, "python": health}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return subprocess.Popen(
        ["bash", str(IMAGES / "on-ray-node.sh"), "head:6379", *command],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LASTING_NODE = (
    "trap 'echo \"$@\" > node-ended; exit' TERM; touch node-up; while :; do sleep 0.1; done"
)
NODE_IS_UP = "test -e node-up"
LASTING_COMMAND = (
    "trap 'echo command ended; exit 5' TERM; echo started; while :; do sleep 0.1; done"
)


def test_a_command_beside_a_node_takes_the_node_along_when_it_ends(tmp_path: Path) -> None:
    started = beside_a_node(tmp_path, LASTING_NODE, "sh", "-c", "exit 7", health=NODE_IS_UP)
    started.communicate(timeout=60)
    assert started.returncode == 7
    arguments = (tmp_path / "node-ended").read_text().split()
    assert {"--address=head:6379", "--num-cpus=0", "--block"} < set(arguments)
    check_command(["ray", *arguments])


def test_a_command_beside_a_node_ends_when_the_node_does(tmp_path: Path) -> None:
    started = beside_a_node(tmp_path, "sleep 1", "sh", "-c", LASTING_COMMAND)
    out, err = started.communicate(timeout=60)
    assert out == "started\ncommand ended\n"
    assert "error: the Ray node beside 'sh' ended with code 0" in err
    assert started.returncode == 1


def test_a_command_beside_a_node_is_ended_before_the_node(tmp_path: Path) -> None:
    started = beside_a_node(tmp_path, LASTING_NODE, "sh", "-c", LASTING_COMMAND, health=NODE_IS_UP)
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    started.terminate()
    assert started.communicate(timeout=60)[0] == "command ended\n"
    assert started.returncode == 143
    assert (tmp_path / "node-ended").exists()


def test_without_a_cluster_the_command_is_not_started(tmp_path: Path) -> None:
    started = beside_a_node(tmp_path, "exit 3", "echo", "started", health="exit 1")
    out, err = started.communicate(timeout=60)
    assert (out, started.returncode) == ("", 1)
    assert "error: there must be a Ray cluster at head:6379 that takes" in err


def run_postgres_init(tmp_path: Path, password: str) -> "subprocess.CompletedProcess[str]":
    """Runs it with a ``psql`` that writes down its arguments and what it reads."""
    psql = tmp_path / "psql"
    psql.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\n[ -t 0 ] || cat >> {tmp_path}/sql\n'
    )
    psql.chmod(0o755)
    (tmp_path / "password").write_text(password)
    return subprocess.run(
        ["sh", str(IMAGES / "postgres-init.sh")],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "PREFECT_PASSWORD_FILE": str(tmp_path / "password"),
            "MLFLOW_PASSWORD_FILE": str(tmp_path / "password"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_server_gets_a_role_and_a_database_and_no_argument_holds_a_password(
    tmp_path: Path,
) -> None:
    ended = run_postgres_init(tmp_path, "s3cret_-word\n")
    assert ended.returncode == 0, ended.stderr
    sql = (tmp_path / "sql").read_text()
    for name in ("prefect", "mlflow"):
        assert f"create role {name} login password 's3cret_-word';" in sql
        assert f"create database {name} owner {name};" in sql
    assert "s3cret" not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("password", ["it's", "two words", "a;b", ""])
def test_a_password_that_would_need_quoting_is_refused(tmp_path: Path, password: str) -> None:
    ended = run_postgres_init(tmp_path, password)
    assert ended.returncode == 1
    assert "must hold a password of letters, digits, _ and -" in ended.stderr
    assert not (tmp_path / "sql").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("perennial nothing", "no command 'nothing'"),
        ("perennial update a.yaml b.yaml", "does not take"),
        ("perennial rollback", "needs \\['reason'\\]"),
        ("ray start --nothing", "does not take"),
        ("on-ray-node head:6379 perennial nothing", "no command 'nothing'"),
        ("mlflow server --nothing=1", "does not take"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_command(command.split())


def test_a_variable_that_nothing_reads_is_found() -> None:
    names = ["PERENNIAL_NOTHING", "PREFECT_NOTHING", "MLFLOW_NOTHING", "RAY_NOTHING", "AWS_NOTHING"]
    names += ["RAY_health_check_nothing", "RAY_health_check_period"]
    known = ["PERENNIAL_HOME", "PREFECT_API_URL", "RAY_health_check_period_ms"]
    assert unknown_variables(names + known) == sorted(names)
