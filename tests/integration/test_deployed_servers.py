"""The command lines and variables of compose.yaml, run outside of containers."""

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.integration.servers.gateway import Gateway
from tests.integration.servers.postgres import Postgres
from tests.support.deployment import IMAGES, INFRA, load_yaml

pytestmark = pytest.mark.integration

SERVICES: dict[str, dict[str, Any]] = load_yaml(INFRA / "compose.yaml")[0]["services"]
SECONDS = 180.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def status_of(url: str, login: str = "") -> int:
    """HTTP status of a GET; 0 when nobody answers."""
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def secrets_in(folder: Path, **values: str) -> None:
    folder.mkdir(mode=0o700)
    for name, value in values.items():
        (folder / name).write_text(value)


@contextmanager
def running(
    service: str,
    folder: Path,
    replaced: Mapping[str, str],
    is_ready: Callable[[], bool],
) -> Generator[None]:
    """A service's own command with its own variables, some of their words replaced."""

    # At once, and the longest first: what was put in is not looked through again.
    words_of_compose = re.compile("|".join(map(re.escape, sorted(replaced, key=len)[::-1])))

    def adapted(text: str) -> str:
        return words_of_compose.sub(lambda found: replaced[found[0]], text)

    variables = {k: adapted(v) for k, v in SERVICES[service]["environment"].items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [adapted(word) for word in SERVICES[service]["command"]]
    log = (folder / f"{service}.log").open("wb")
    process = subprocess.Popen(
        ["sh", str(IMAGES / "with-secrets.sh"), *words],
        env={"PATH": path, "HOME": str(folder), "DO_NOT_TRACK": "1", **variables},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        waiting = Event()
        for _ in range(int(SECONDS / 0.5)):
            if is_ready():
                break
            assert process.poll() is None, (folder / f"{service}.log").read_text()
            waiting.wait(0.5)
        else:
            pytest.fail(f"{service} is not ready: {(folder / f'{service}.log').read_text()}")
        yield
    finally:
        stop_session(process)
        log.close()


def stop_session(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the leader, SIGKILL to what of its session is left."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with_session = subprocess.run(
        ["pkill", "-KILL", "-s", str(process.pid)], check=False, capture_output=True
    )
    assert with_session.returncode in (0, 1)


def test_prefect_runs_on_postgresql_and_wants_its_auth_string(
    postgres: Postgres, tmp_path: Path
) -> None:
    secrets_in(
        tmp_path / "secrets",
        prefect_auth_string="admin:opens\n",
        prefect_database_password=postgres.password + "\n",
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    replaced = {
        "postgres:5432": f"127.0.0.1:{postgres.port}",
        "/run/secrets": str(tmp_path / "secrets"),
        "/var/lib/perennial": str(tmp_path / "home"),
        "/tmp/prefect-ui": str(tmp_path / "ui"),
        "0.0.0.0": "127.0.0.1",
        "4200": str(port),
    }
    with running("prefect", tmp_path, replaced, lambda: status_of(f"{url}/health") == 200):
        assert status_of(f"{url}/admin/version") == 401
        assert status_of(f"{url}/admin/version", "admin:wrong") == 401
        assert status_of(f"{url}/admin/version", "admin:opens") == 200


def test_mlflow_runs_on_postgresql_and_wants_a_password(
    postgres: Postgres, gateway: Gateway, tmp_path: Path
) -> None:
    own = gateway.environment()
    credentials = (
        f"[default]\naws_access_key_id = {own['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {own['AWS_SECRET_ACCESS_KEY']}\n"
    )
    secrets_in(
        tmp_path / "secrets",
        mlflow_admin_password="opens-the-server\n",
        mlflow_secret_key="signs\n",
        mlflow_database_password=postgres.password,
        mlflow_s3_credentials=credentials,
    )
    config = tmp_path / "mlflow-auth.ini"
    text = (IMAGES / "mlflow-auth.ini").read_text()
    config.write_text(text.replace("postgres:5432", f"127.0.0.1:{postgres.port}"))
    bucket = gateway.new_bucket()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    ours = SERVICES["mlflow"]["environment"]
    replaced = {
        ours["AWS_ENDPOINT_URL_S3"]: gateway.endpoint,
        ours["AWS_DEFAULT_REGION"]: own["AWS_DEFAULT_REGION"],
        ours["MLFLOW_ARTIFACTS_DESTINATION"]: f"s3://{bucket}/mlflow",
        "postgres:5432": f"127.0.0.1:{postgres.port}",
        "/run/secrets": str(tmp_path / "secrets"),
        "/etc/perennial/mlflow-auth.ini": str(config),
        "0.0.0.0": "127.0.0.1",
        "5000": str(port),
    }
    search = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    with running("mlflow", tmp_path, replaced, lambda: status_of(f"{url}/health") == 200):
        assert status_of(search) == 401
        assert status_of(search, "admin:wrong") == 401
        assert status_of(search, "admin:opens-the-server") == 200
        artifact = f"{url}/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/page.html"
        put = urllib.request.Request(
            artifact,
            data=b"a page",
            method="PUT",
            headers={"Authorization": f"Basic {b64encode(b'admin:opens-the-server').decode()}"},
        )
        with urllib.request.urlopen(put, timeout=30) as answer:
            assert answer.status == 200
    kept = gateway.client().get_object(Bucket=bucket, Key="mlflow/0/run/artifacts/page.html")
    assert kept["Body"].read() == b"a page"
