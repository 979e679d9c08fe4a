"""Real servers, each started once a session; the code that starts them is in ``servers/``."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tests.integration.judged import Judged, train_without_mlflow
from tests.integration.servers.browser import Camera, open_prefect, running_browser
from tests.integration.servers.fault_proxy import FaultProxy, running_fault_proxy
from tests.integration.servers.gateway import Gateway, running_gateway
from tests.integration.servers.mlflow_server import MlflowServer
from tests.integration.servers.nodes import NodeCluster, node_cluster
from tests.integration.servers.postgres import Postgres, running_postgres
from tests.integration.servers.prefect_server import PrefectServer


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """An S3 server; what its buckets hold is in memory."""
    with running_gateway() as started:
        yield started


@pytest.fixture(scope="session")
def gateway_proxy(gateway: Gateway) -> Iterator[FaultProxy]:
    """Stands before the gateway."""
    with running_fault_proxy(gateway.endpoint) as started:
        yield started


@pytest.fixture
def fault_proxy(
    gateway_proxy: FaultProxy, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """The proxy, through which ``s3_root`` is reached in this test; does nothing until told to."""
    gateway_proxy.script([])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gateway_proxy.endpoint)
    yield gateway_proxy
    gateway_proxy.script([])


@pytest.fixture
def s3_root(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a fresh prefix on the gateway, whose credentials are in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in gateway.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{gateway.new_bucket()}/p-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def nodes(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """Three Ray nodes with addresses of their own, which reach the gateway and nothing else."""
    target = urlsplit(gateway.endpoint)
    with (
        node_cluster(tmp_path_factory.mktemp("nodes")) as cluster,
        cluster.relay_to(str(target.hostname), target.port or 80) as endpoint,
    ):
        cluster.environment |= {**gateway.environment(), "AWS_ENDPOINT_URL_S3": endpoint}
        cluster.add_nodes(3)
        yield cluster


@pytest.fixture(scope="session")
def mlflow_server(
    gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """MLflow with basic auth on SQLite, its artifacts and the models' in the gateway's buckets."""
    server = MlflowServer(
        folder=tmp_path_factory.mktemp("mlflow-server"),
        artifacts_uri=f"s3://{gateway.new_bucket()}/mlflow",
        environment=gateway.environment(),
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Prefect's server with its pages; whoever kills it starts it again."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Chromium, with a profile of this test's own."""
    with running_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, prefect: PrefectServer) -> Page:
    """Prefect's pages, after the login."""
    return open_prefect(browser, prefect.url, prefect.auth_string)


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    """Takes screenshots, for people to look at."""
    return Camera(tmp_path / "screenshots")


@pytest.fixture(scope="session")
def judged(
    gateway: Gateway,
    mlflow_server: MlflowServer,
    prefect: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Judged:
    """A lineage of three versions; MLflow was away, or hung, until the last of them."""
    folder = tmp_path_factory.mktemp("judged")
    return train_without_mlflow(folder, gateway, mlflow_server, prefect.environment())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with the databases mlflow and prefect."""
    with running_postgres() as started:
        yield started
