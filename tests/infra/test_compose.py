"""compose.yaml against the schema of compose files, against itself and against the code."""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest

from infra.settings import Settings
from infra.stack.credentials import Credentials
from infra.stack.parts import parts_of
from infra.stack.state import StackState
from tests.support.deployment import (
    INFRA,
    ROOT,
    SECRET_NAME,
    check_command,
    load_yaml,
    project,
    unknown_variables,
)

PATH = INFRA / "compose.yaml"
COMPOSE: dict[str, Any] = load_yaml(PATH)[0]
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HEALTH_PATHS = {"prefect": "/api/health", "mlflow": "/health", "ray-head": "/api/healthz"}
"""That these answer without a login, test_deployed_servers.py and test_nodes.py see."""


def environment_of(service: str) -> dict[str, str]:
    return SERVICES[service].get("environment", {})


def option(service: str, name: str) -> str:
    """Value of ``--name value`` or ``--name=value`` in a service's command."""
    words = [word for part in SERVICES[service]["command"] for word in part.split("=", 1)]
    return words[words.index(name) + 1]


def test_it_is_a_valid_compose_file() -> None:
    spec = find_spec("check_jsonschema")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError, match="restarts"):
        jsonschema.validate({**COMPOSE, "services": {"a": {"restarts": "always"}}}, schema)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_no_more_rights_and_resources_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged", False)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service.get("user", "") != "root"
    resources = service["deploy"]["resources"]
    assert set(resources["limits"]) == {"cpus", "memory"}
    assert "memory" in resources["reservations"]
    assert service["logging"]["options"]["max-size"]


def test_images_carry_the_projects_version_or_a_version_of_postgresql() -> None:
    images = {service["image"] for service in SERVICES.values()}
    version = project()["version"]
    assert images == {
        f"perennial:{version}",
        f"perennial-servers:{version}",
        "postgres:15-bookworm",
    }
    for service in SERVICES.values():
        if "build" in service:
            assert (INFRA / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert service["image"].split(":")[0].endswith(service["build"]["target"])


def test_pages_are_published_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "prefect": ["127.0.0.1:4200:4200"],
        "mlflow": ["127.0.0.1:5000:5000"],
    }


def test_every_secret_is_a_file_that_some_service_needs_and_operators_are_told_of() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"secrets/{name}"}
        assert f"`{name}`" in manual, name
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"infra/secrets/", "infra/.env"} <= set(ignored)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reads_the_secrets_that_it_was_given_and_no_others(name: str) -> None:
    paths = [
        value.removeprefix("/run/secrets/")
        for value in environment_of(name).values()
        if value.startswith("/run/secrets/")
    ]
    assert sorted(paths) == sorted(SERVICES[name].get("secrets", ()))


def test_no_value_in_it_is_secret() -> None:
    for service in SERVICES:
        for name, value in environment_of(service).items():
            assert not SECRET_NAME.search(name), name
            for password in re.findall(r"://[^/@\s]*:([^/@\s]*)@", value):
                pytest.fail(f"{service}: {name} holds {password!r}")


def test_every_variable_is_read_by_something() -> None:
    names = {name for service in SERVICES for name in environment_of(service)}
    assert unknown_variables(names) == []


def test_every_place_that_is_left_open_is_told_to_operators() -> None:
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    left_open = set(re.findall(r"\$\{(\w+)[:}]", PATH.read_text(encoding="utf-8")))
    assert {"PERENNIAL_STORAGE_ROOT", "AWS_ENDPOINT_URL_S3"} <= left_open
    assert not [name for name in left_open if f"`{name}`" not in manual]


@pytest.mark.parametrize("name", [name for name in SERVICES if "command" in SERVICES[name]])
def test_every_command_exists(name: str) -> None:
    check_command(SERVICES[name]["command"])


def test_urls_name_services_on_a_shared_network_and_the_ports_that_they_listen_on() -> None:
    ports = {
        "postgres": 5432,
        "prefect": int(option("prefect", "--port")),
        "mlflow": int(option("mlflow", "--port")),
    }
    seen: set[tuple[str, str]] = set()
    for name in SERVICES:
        for value in environment_of(name).values():
            for url in map(urlsplit, re.findall(r"\w+(?:\+\w+)?://[\w@:/.-]+", value)):
                if url.hostname in SERVICES:
                    seen.add((name, url.hostname))
                    assert url.port == ports[url.hostname], value
                    assert set(SERVICES[name]["networks"]) & set(SERVICES[url.hostname]["networks"])
    assert seen == {
        ("prefect", "postgres"),
        ("mlflow", "postgres"),
        ("serve", "prefect"),
        ("serve", "mlflow"),
    }
    head = f"ray-head:{option('ray-head', '--port')}"
    assert option("ray-worker", "--address") == head
    assert SERVICES["serve"]["command"][:3] == ["on-ray-node", head, "perennial"]
    assert environment_of("serve")["PERENNIAL_RAY_ADDRESS"] == "auto"
    module, _, function = environment_of("ray-head")["RAY_START_HOOK"].rpartition(".")
    assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    for name in ("ray-head", "ray-worker", "serve"):
        assert "ray" in SERVICES[name]["networks"]
    assert f"mlflow:{ports['mlflow']}" in option("mlflow", "--allowed-hosts").split(",")


def test_only_the_two_servers_reach_the_database() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    on_it = {name for name, service in SERVICES.items() if "database" in service["networks"]}
    assert on_it == {"postgres", "prefect", "mlflow"}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_whoever_is_waited_for_says_when_it_is_ready() -> None:
    waited_for = {other for service in SERVICES.values() for other in service.get("depends_on", {})}
    assert waited_for == {"postgres", "prefect", "mlflow", "ray-head"}
    for service in SERVICES.values():
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}
    for name in waited_for:
        assert SERVICES[name]["healthcheck"]["start_period"]
    for name, path in HEALTH_PATHS.items():
        asked = SERVICES[name]["healthcheck"]["test"][-1]
        port = option(name, "--dashboard-agent-listen-port" if name == "ray-head" else "--port")
        assert f"http://127.0.0.1:{port}{path}'" in asked


def stack_parts(home: Path) -> Mapping[str, Any]:
    state = StackState(
        is_up=True,
        ports={"prefect": 1, "mlflow": 2, "ray-head": 3, "ray-dashboard": 4},
    )
    made = Credentials(
        prefect_login="a:b",
        mlflow_username="a",
        mlflow_password="b",
        mlflow_session_key="c",
        ray_token="d",
    )
    return {part.name: part for part in parts_of(Settings(home=home), state, made)}


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_servers_are_started_as_perennial_up_starts_them(name: str, tmp_path: Path) -> None:
    part = stack_parts(tmp_path)[name]
    command = SERVICES[name]["command"]
    program = program_of(command)
    assert part.command[2 : 2 + len(program)] == program
    assert options_of(part.command) == options_of(command)
    # Set in the image, or for clients alone.
    elsewhere = {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_LOGGING_LEVEL"}
    elsewhere |= {"PREFECT_SERVER_ANALYTICS_ENABLED", "MLFLOW_DISABLE_TELEMETRY"}
    # In mlflow-auth.ini.
    elsewhere |= {"MLFLOW_AUTH_ADMIN_USERNAME"}
    inherited = stack_parts(tmp_path)["ray-head"].environment
    given = {variable.removesuffix("_FILE") for variable in environment_of(name)}
    assert {v for v in part.environment if v not in inherited} <= given | elsewhere


def program_of(command: list[str]) -> tuple[str, ...]:
    """The program and its commands, before the first option."""
    first = next(i for i, word in enumerate(command) if word.startswith("--"))
    return tuple(command[:first])


def options_of(command: Any) -> set[str]:
    return {word.partition("=")[0] for word in command if word.startswith("--")}
