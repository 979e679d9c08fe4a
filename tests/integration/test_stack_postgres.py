"""``perennial up`` with PostgreSQL and S3: what people run on one server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.servers.gateway import Gateway
from tests.integration.servers.postgres import Postgres
from tests.integration.servers.stack import Stack, stack_in
from tests.support.tiny_lineage import TinyLineage

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stack(
    gateway: Gateway, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    variables = {
        **gateway.environment(),
        "PERENNIAL_STORAGE_ROOT": f"s3://{gateway.new_bucket()}/perennial",
        "PERENNIAL_PREFECT_DATABASE_URL": postgres.new_database("prefect"),
        "PERENNIAL_MLFLOW_DATABASE_URL": postgres.new_database("mlflow"),
    }
    with stack_in(tmp_path_factory.mktemp("stack") / "home", variables) as stack:
        yield stack


def test_a_wrong_password_is_one_sentence(stack: Stack, postgres: Postgres) -> None:
    name = "PERENNIAL_MLFLOW_DATABASE_URL"
    wrong = stack.variables[name].replace(postgres.password, "canary")
    ended = Stack(stack.home, {**stack.variables, name: wrong}).run("up")
    assert ended.returncode == 1
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert "PERENNIAL_MLFLOW_DATABASE_URL" in line
    assert "password authentication failed" in line
    assert "canary" not in ended.stdout + ended.stderr
    assert stack.processes() == []


def test_updates_go_through_the_servers_and_survive_down(
    stack: Stack, gateway: Gateway, postgres: Postgres, tmp_path: Path
) -> None:
    lineage = TinyLineage(tmp_path / "lineage")
    lineage.add("prose")
    lineage.write(compute={"num_workers": 1})
    stack.succeed("up")
    stack.succeed("update", lineage.file)
    (run,), (version,) = stack.flow_runs(), stack.model_versions()
    assert run["state_type"] == "COMPLETED"
    assert version["source"].startswith(stack.variables["PERENNIAL_STORAGE_ROOT"])
    report = stack.ask(
        "mlflow",
        f"/get-artifact?path=report.html&run_uuid={version['run_id']}",
        headers=stack.login("mlflow"),
    )
    assert report.status == 200
    assert b"<html" in report.body
    assert not (stack.home / "mlflow" / "mlflow.db").exists()
    assert not (stack.home / "prefect" / "prefect.db").exists()

    secrets = (postgres.password, gateway.owner.secret_key)
    said = [" ".join(process.cmdline()) for process in stack.processes()]
    said += [path.read_text() for path in (stack.home / "stack" / "logs").iterdir()]
    said.append((stack.home / "stack" / "state.json").read_text())
    assert [secret for secret in secrets for text in said if secret in text] == []

    stack.succeed("down")
    assert stack.processes() == []
    stack.succeed("up")
    assert [one["id"] for one in stack.flow_runs()] == [run["id"]]
    assert stack.model_versions() == [version]


def test_another_database_than_at_first_is_refused(stack: Stack) -> None:
    names = ("PERENNIAL_PREFECT_DATABASE_URL", "PERENNIAL_MLFLOW_DATABASE_URL")
    without = {name: value for name, value in stack.variables.items() if name not in names}
    ended = Stack(stack.home, without).run("up")
    assert ended.returncode == 1
    assert "_DATABASE_URL must be postgresql://" in ended.stderr
    assert "as when this home was started first, and is unset" in ended.stderr
    assert not (stack.home / "mlflow" / "mlflow.db").exists()
