"""``perennial up``, ``status`` and ``down`` with real servers; SQLite and a local store."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from infra.stack.lock import locked
from infra.stack.state import StackFolder
from tests.integration.servers.stack import Stack, basic, stack_in
from tests.support.tiny_lineage import TinyLineage
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

PARTS = {"prefect", "mlflow", "ray-head", "ray-worker-1", "serve", "watch"}


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> TinyLineage:
    """For two Ray workers."""
    lineage = TinyLineage(tmp_path_factory.mktemp("lineage"))
    lineage.add("prose")
    lineage.write(compute={"num_workers": 2}, recipe={"micro_batch_size": 8})
    return lineage


@pytest.fixture(scope="module")
def stack(lineage: TinyLineage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Started by two commands at once, while a server of somebody else has Prefect's usual port."""
    with (
        socket.socket() as stranger,
        stack_in(tmp_path_factory.mktemp("stack") / "home", {}) as stack,
    ):
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Whoever has it: it is taken.
        if stranger.connect_ex(("127.0.0.1", 4200)) != 0:
            stranger.close()
            stranger = socket.create_server(("127.0.0.1", 4200))
        with stranger:
            both = [stack.start("up", lineage.file, "--ray-workers", "1") for _ in range(2)]
            ended = [process.communicate(timeout=300) for process in both]
            assert [process.returncode for process in both] == [0, 0], ended
        yield stack


@pytest.fixture(scope="module")
def updated(stack: Stack, lineage: TinyLineage) -> TinyLineage:
    """The lineage, whose first update was asked for by button, and ran on two Ray workers."""
    run = stack.trigger("update-model/tiny")

    def final_state() -> dict[str, Any] | None:
        state = stack.flow_run(run)["state"]
        return state if state["type"] in ("COMPLETED", "FAILED") else None

    state = wait_for(final_state, 120, "the end of the update", lambda: stack.log("serve"))
    assert state["name"] == "PASS", (state, stack.log("serve"))
    return lineage


def test_two_ups_at_once_start_every_part_once(stack: Stack) -> None:
    assert set(stack.pids()) == PARTS
    parents = {process.pid for process in stack.processes()}
    first = [one.pid for one in stack.processes() if one.ppid() not in parents]
    assert sorted(first) == sorted(stack.pids().values())
    assert stack.conditions() == dict.fromkeys(PARTS, "running")


def test_a_port_that_is_taken_makes_the_server_move_aside(stack: Stack) -> None:
    assert stack.state["ports"]["prefect"] != 4200
    assert stack.ask("prefect", "/api/health").status == 200


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    addresses = {
        connection.laddr.ip
        for process in stack.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_prefect_refuses_requests_without_password_and_without_csrf_token(stack: Stack) -> None:
    for headers in ({}, basic("admin:wrong")):
        assert stack.ask("prefect", "/api/admin/version", headers=headers).status == 401
        token = {name: value for name, value in stack.csrf().items() if name != "Authorization"}
        asked = {**token, **headers}
        runs = stack.ask("prefect", "/api/flow_runs/filter", headers=asked, body={})
        assert runs.status == 401
    login = stack.login("prefect")
    assert stack.ask("prefect", "/api/admin/version", headers=login).status == 200
    assert stack.ask("prefect", "/api/flow_runs/filter", headers=login, body={}).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/3.0/jobs/search",
        "/get-artifact?path=x&run_uuid=y",
        "/api/2.0/mlflow-artifacts/artifacts",
    ],
)
def test_mlflow_refuses_requests_without_its_own_password(stack: Stack, path: str) -> None:
    for login in ("admin:password1234", "admin:password", "admin:wrong"):
        assert stack.ask("mlflow", path, headers=basic(login)).status == 401
    assert stack.ask("mlflow", path).status == 401


def test_mlflow_refuses_jobs_and_traces_without_password(stack: Stack) -> None:
    assert stack.ask("mlflow", "/ajax-api/3.0/jobs/", body={}).status == 401
    assert stack.ask("mlflow", "/v1/traces", body={}).status == 401


def test_mlflow_refuses_the_name_of_another_host(stack: Stack) -> None:
    headers = {**stack.login("mlflow"), "Host": "elsewhere.example"}
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert stack.ask("mlflow", path, headers=headers).status == 403


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc",
        "/etc",
        "../../etc",
        "mlflow-artifacts:/../../etc",
        "mlflow-artifacts:/..%2f..%2fetc",
        "mlflow-artifacts:/%252e%252e/etc",
        "mlflow-artifacts:/a;../../../etc",
        "mlflow-artifacts:/\\..\\..\\etc",
    ],
)
def test_mlflow_refuses_sources_outside_its_artifacts(stack: Stack, source: str) -> None:
    login = stack.login("mlflow")
    path = "/api/2.0/mlflow/registered-models/create"
    stack.ask("mlflow", path, headers=login, body={"name": "traversal"})
    body = {"name": "traversal", "source": source}
    path = "/api/2.0/mlflow/model-versions/create"
    assert stack.ask("mlflow", path, headers=login, body=body).status == 400
    path = f"/api/2.0/mlflow-artifacts/artifacts?path={quote(source.partition(':/')[2] or source)}"
    listed = stack.ask("mlflow", path, headers=login)
    assert listed.status == 400 or listed.json.get("files", []) == []
    assert b"passwd" not in listed.body


def test_ray_refuses_jobs_without_the_token(stack: Stack) -> None:
    job = {"entrypoint": "true"}
    assert stack.ask("ray-dashboard", "/api/jobs/", body=job).status == 401
    wrong = {"Authorization": "Bearer " + "0" * 64}
    assert stack.ask("ray-dashboard", "/api/jobs/", body=job, headers=wrong).status == 403
    login = stack.login("ray")
    assert stack.ask("ray-dashboard", "/api/jobs/", headers=login).status == 200


def test_no_server_of_rays_client_is_started(stack: Stack) -> None:
    said = [" ".join(process.cmdline()) for process in stack.processes()]
    assert [line for line in said if "gcs_server" in line]
    assert [line for line in said if "ray.util.client" in line] == []


def test_an_update_by_button_runs_through_prefect_ray_and_mlflow(
    stack: Stack, updated: TinyLineage
) -> None:
    (run,) = stack.flow_runs()
    assert (run["state_name"], set(run["tags"])) == ("PASS", {"perennial", "lineage:tiny"})
    (version,) = stack.model_versions()
    assert version["name"] == "tiny"
    jobs = stack.ask("ray-dashboard", "/api/jobs/", headers=stack.login("ray")).json
    assert [job["status"] for job in jobs] == ["SUCCEEDED"]


def test_no_secret_is_in_a_command_line_a_log_or_the_state(
    stack: Stack, updated: TinyLineage
) -> None:
    secrets = {part for value in stack.secrets.values() for part in value.split(":")} - {"admin"}
    assert len(secrets) == 4
    said = [" ".join(process.cmdline()) for process in stack.processes()]
    said += [stack.run("status").stdout, (stack.home / "stack" / "state.json").read_text()]
    logs = [*(stack.home / "stack" / "logs").iterdir(), *ray_logs(stack)]
    assert len(logs) > len(PARTS)
    said += [log.read_text(errors="replace") for log in logs]
    assert [secret for secret in secrets for text in said if secret in text] == []


def test_only_the_owner_can_read_what_lies_beside_the_secrets(stack: Stack) -> None:
    folder = stack.home / "stack"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("secrets.json", "ray-token", "mlflow-auth.ini", "mlflow-auth.db", "state.json"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def unwatched(stack: Stack) -> Iterator[None]:
    """Nothing is mended by itself."""
    watch = psutil.Process(stack.pids()["watch"])
    # Held here, so that it is not held by a process that does nothing any more.
    with locked(StackFolder(stack.home), print):
        watch.suspend()
    yield
    watch.resume()


@pytest.mark.parametrize("name", ["mlflow", "ray-head"])
@pytest.mark.usefixtures("updated")
def test_what_was_killed_comes_back_by_itself(name: str, stack: Stack) -> None:
    before = stack.pids()
    os.kill(before[name], signal.SIGKILL)

    def is_back() -> bool:
        is_new = stack.pids()[name] != before[name]
        return is_new and stack.conditions() == dict.fromkeys(PARTS, "running")

    wait_for(is_back, 120, f"a new {name}", lambda: stack.log("watch"))
    assert stack.pids()["watch"] == before["watch"]


@pytest.mark.usefixtures("unwatched")
def test_killed_parts_are_told_and_mended_alone(stack: Stack, updated: TinyLineage) -> None:
    for names in ({"serve", "mlflow"}, {"ray-worker-1"}, {"prefect"}, {"ray-head"}):
        before = stack.pids()
        for name in names:
            os.kill(before[name], signal.SIGKILL)
            wait_until_dead(before[name])
        conditions = stack.conditions()
        assert {conditions[name] for name in names} == {"dead"}
        if "prefect" in names:
            refused = stack.run("update", updated.file)
            assert refused.returncode == 1
            assert refused.stderr.startswith("error: the Prefect server of 'perennial up' does not")
            assert "run 'perennial up', or 'perennial down'" in refused.stderr
        assert "all 6 parts are running" in stack.succeed("up")
        # Ray's other nodes do not survive a new head.
        gone = {*names, "ray-worker-1"} if "ray-head" in names else names
        after = stack.pids()
        assert {part for part in PARTS if before[part] != after[part]} == gone
        assert stack.conditions() == dict.fromkeys(PARTS, "running")


@pytest.mark.usefixtures("unwatched")
def test_a_part_that_does_not_answer_is_told_and_mended(stack: Stack) -> None:
    pid = stack.pids()["mlflow"]
    children = psutil.Process(pid).children(recursive=True)
    for process in children:
        process.suspend()
    assert stack.conditions()["mlflow"] == "not answering"
    assert "does not answer: it is started anew" in stack.succeed("up")
    assert stack.pids()["mlflow"] != pid
    assert [process for process in children if is_living(process)] == []


def test_lineages_are_served_as_the_last_time_until_none_are_to_be(stack: Stack) -> None:
    lineages = stack.state["lineages"]
    assert len(lineages) == 1
    stack.succeed("up", "--no-serve")
    assert stack.conditions() == dict.fromkeys(PARTS - {"serve"}, "running")
    assert stack.state["lineages"] == []


def test_down_leaves_no_process_and_up_finds_everything_again(
    stack: Stack, updated: TinyLineage
) -> None:
    ports, secrets = stack.state["ports"], stack.secrets
    updated.add("prose", 2)
    ended = stack.run("update", updated.file)
    # Judged either way: what is held out, and so the verdict, depends on where the files lie.
    assert ended.returncode in (0, 3, 4), ended.stdout + ended.stderr
    runs, versions = stack.flow_runs(), stack.model_versions()
    assert len(versions) == 2
    stack.succeed("down")
    assert stack.processes() == []
    assert set(stack.conditions().values()) == {"stopped"}
    assert stack.succeed("status", updated.file).startswith("servers")
    stack.succeed("up")
    assert (stack.state["ports"], stack.secrets) == (ports, secrets)
    assert ids(stack.flow_runs()) == ids(runs)
    assert stack.model_versions() == versions


def ids(runs: list[dict[str, Any]]) -> set[str]:
    return {run["id"] for run in runs}


def is_living(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def ray_logs(stack: Stack) -> list[Path]:
    command = psutil.Process(stack.pids()["ray-head"]).cmdline()
    (folder,) = (word.partition("=")[2] for word in command if word.startswith("--temp-dir="))
    return [path for path in Path(folder).glob("session_2*/logs/**/*") if path.is_file()]


def wait_until_dead(pid: int, timeout_seconds: float = 10) -> None:
    def is_dead() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    wait_for(is_dead, timeout_seconds, f"the end of {pid}")
