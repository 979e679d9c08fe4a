"""The Kubernetes files against the schemas of Kubernetes, against themselves and the code.

KubeRay's schemas are not installed: its two files are checked by structure, for what matters.
While they were written they were valid under the schemas of KubeRay 1.6.0 and 1.7.0.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest

from tests.support.deployment import (
    IMAGES,
    KUBERNETES,
    ROOT,
    SECRET_NAME,
    check_command,
    load_yaml,
    pinned,
    project,
    unknown_variables,
)

Resource = dict[str, Any]

NOT_APPLIED = {"kustomization.yaml", "secrets.example.yaml", "update-job.yaml"}
FILES = {path.name: load_yaml(path) for path in sorted(KUBERNETES.glob("*.yaml"))}
RESOURCES: list[Resource] = [
    resource for name, found in FILES.items() if name != "kustomization.yaml" for resource in found
]
CORE = [resource for resource in RESOURCES if not resource["apiVersion"].startswith("ray.io/")]
KUBERNETES_VERSIONS = ("1.31", kubernetes_validate.latest_version())
MADE_BY_OPERATORS = {"lineages"}
"""Config maps that the manual says how to create."""


def label(resource: Resource) -> str:
    metadata = resource["metadata"]
    return f"{resource['kind']}/{metadata.get('name') or metadata['generateName']}"


def one(kind: str, name: str) -> Resource:
    (found,) = [resource for resource in RESOURCES if label(resource) == f"{kind}/{name}"]
    return found


def ray_clusters() -> dict[str, Resource]:
    return {
        "RayCluster/perennial": one("RayCluster", "perennial")["spec"],
        "RayJob/update-": one("RayJob", "update-")["spec"]["rayClusterSpec"],
    }


def pods() -> dict[str, Resource]:
    """Every pod template, with the labels that KubeRay adds to its own."""
    found: dict[str, Resource] = {
        label(resource): resource["spec"]["template"]
        for resource in RESOURCES
        if resource["kind"] in ("Deployment", "StatefulSet")
    }
    for name, spec in ray_clusters().items():
        templates = {"head": spec["headGroupSpec"]["template"]}
        templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
        for role, template in deepcopy(templates).items():
            template["metadata"]["labels"]["ray.io/is-ray-node"] = "yes"
            found[f"{name}/{role}"] = template
    found["RayJob/update-/submitter"] = one("RayJob", "update-")["spec"]["submitterPodTemplate"]
    return found


PODS = pods()
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}


def below(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from below(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from below(inner)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("resource", CORE, ids=label)
def test_it_is_valid_under_the_schemas_of_kubernetes(resource: Resource, version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_a_misspelled_field_is_found() -> None:
    wrong = {**one("Service", "prefect"), "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="specs"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_every_file_is_applied_except_those_that_must_not_be() -> None:
    (kustomization,) = FILES["kustomization.yaml"]
    assert sorted(kustomization["resources"]) == sorted(set(FILES) - NOT_APPLIED)
    assert kustomization["namespace"] == "perennial"


@pytest.mark.parametrize("resource", RESOURCES, ids=label)
def test_everything_lives_in_the_namespace(resource: Resource) -> None:
    if resource["kind"] != "Namespace":
        assert resource["metadata"]["namespace"] == "perennial"


@pytest.mark.parametrize("name", PODS)
def test_every_pod_runs_without_rights(name: str) -> None:
    spec, container = PODS[name]["spec"], CONTAINERS[name]
    assert len(spec["containers"]) == 1
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == (999 if "postgres" in name else 10001)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    account = one("ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    forbidden = {"hostNetwork", "hostPID", "hostIPC", "hostPath", "privileged", "hostPort"}
    assert not [key for part in below(spec) for key in part if key in forbidden]


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_its_volume(name: str) -> None:
    pod, container = PODS[name], CONTAINERS[name]
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
    if name.startswith("StatefulSet"):
        claims = one(*name.split("/"))["spec"]["volumeClaimTemplates"]
        volumes |= {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    for volume in pod["spec"].get("volumes", ()):
        if claim := volume.get("persistentVolumeClaim"):
            one("PersistentVolumeClaim", claim["claimName"])


def test_sources_are_where_compose_has_them() -> None:
    volumes = load_yaml(KUBERNETES.parent / "compose.yaml")[0]["services"]["serve"]["volumes"]
    bound = [volume for volume in volumes if isinstance(volume, dict)]
    (target,) = [v["target"] for v in bound if "SOURCES_FOLDER" in v["source"]]
    for name in ("Deployment/serve", "RayJob/update-/head"):
        mounts = CONTAINERS[name]["volumeMounts"]
        assert {"name": "sources", "mountPath": target, "readOnly": True} in mounts


@pytest.mark.parametrize("name", PODS)
def test_no_service_links_set_variables_that_look_like_settings(name: str) -> None:
    # A service called prefect would set PREFECT_PORT in every pod.
    if "postgres" not in name:
        assert PODS[name]["spec"]["enableServiceLinks"] is False


def secret_keys_in_use() -> set[tuple[str, str]]:
    used: set[tuple[str, str]] = set()
    for pod, container in zip(PODS.values(), CONTAINERS.values(), strict=True):
        refs = [part["secretKeyRef"] for part in below(pod) if "secretKeyRef" in part]
        used |= {(ref["name"], ref["key"]) for ref in refs}
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for volume in pod["spec"].get("volumes", ()):
            if "secret" in volume:
                folder = mounted[volume["name"]]
                files = [entry.get("value", "") for entry in container["env"]]
                used |= {
                    (volume["secret"]["secretName"], file.removeprefix(f"{folder}/"))
                    for file in files
                    if file.startswith(f"{folder}/")
                }
    # KubeRay reads this key of the secret that authOptions names.
    used |= {(spec["authOptions"]["secretName"], "auth_token") for spec in ray_clusters().values()}
    return used


def test_the_secrets_in_use_are_those_of_the_example_which_has_no_values() -> None:
    listed = {
        (secret["metadata"]["name"], key)
        for secret in FILES["secrets.example.yaml"]
        for key in secret["stringData"]
    }
    assert secret_keys_in_use() == listed
    values = [v for secret in FILES["secrets.example.yaml"] for v in secret["stringData"].values()]
    assert set(values) == {""}
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    for name, key in listed:
        command = rf"kubectl create secret generic {name} (?:.*\\\n)*?.*--from-file={key}="
        assert re.search(command, manual), (name, key)


def test_no_value_is_secret_and_no_secret_lies_among_the_applied_files() -> None:
    assert not [
        label(r)
        for r in RESOURCES
        if r["kind"] == "Secret" and r not in FILES["secrets.example.yaml"]
    ]
    for name, container in CONTAINERS.items():
        for entry in container["env"]:
            if SECRET_NAME.search(entry["name"]):
                assert set(entry) == {"name", "valueFrom"}, (name, entry["name"])
    for part in below(RESOURCES):
        for value in part.values():
            if isinstance(value, str):
                assert not re.search(r"://[^/@\s]*:[^/@\s]+@", value), value


def test_config_maps_in_use_exist() -> None:
    made = {
        label(r).removeprefix("ConfigMap/"): r["data"]
        for r in RESOURCES
        if r["kind"] == "ConfigMap"
    }
    used: set[str] = set()
    for part in below(list(PODS.values())):
        for kind in ("configMapRef", "configMap", "configMapKeyRef"):
            if kind in part:
                used.add(part[kind]["name"])
                if kind == "configMapKeyRef":
                    assert part[kind]["key"] in made[part[kind]["name"]]
    assert used == set(made) | MADE_BY_OPERATORS
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    for name in MADE_BY_OPERATORS:
        assert f"kubectl create configmap {name} " in manual


def variables_of(name: str) -> dict[str, str]:
    """Plain values by name; of secrets the empty string."""
    container = CONTAINERS[name]
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        values |= one("ConfigMap", source["configMapRef"]["name"])["data"]
    return values | {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_every_variable_is_read_by_something() -> None:
    assert unknown_variables({name for pod in PODS for name in variables_of(pod)}) == []


@pytest.mark.parametrize("name", ["Deployment/prefect", "Deployment/mlflow", "Deployment/serve"])
def test_commands_and_places_are_those_of_compose(name: str) -> None:
    container = CONTAINERS[name]
    check_command(container["args"])
    service = load_yaml(KUBERNETES.parent / "compose.yaml")[0]["services"][name.split("/")[1]]
    # KubeRay names the head.
    args = [arg.replace("perennial-head-svc", "ray-head") for arg in container["args"]]
    assert args == service["command"]
    assert container["image"] == service["image"]
    files = {"RAY_AUTH_TOKEN_PATH": "RAY_AUTH_TOKEN"}
    given = {files.get(v, v.removesuffix("_FILE")) for v in service["environment"]}
    ours = {v if v.startswith("AWS_") else v.removesuffix("_FILE") for v in variables_of(name)}
    assert ours == {v + "_FILE" if v == "AWS_SHARED_CREDENTIALS" else v for v in given}


def test_the_entry_point_of_the_job_exists() -> None:
    spec = one("RayJob", "update-")["spec"]
    check_command(spec["entrypoint"].split())


def test_urls_name_services_and_their_ports_and_services_name_ports_of_containers() -> None:
    services = {r["metadata"]["name"]: r["spec"] for r in RESOURCES if r["kind"] == "Service"}
    for spec in services.values():
        (container,) = [
            CONTAINERS[name]
            for name, pod in PODS.items()
            if spec["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        (port,) = spec["ports"]
        assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
    known = {(name, spec["ports"][0]["port"]) for name, spec in services.items()}
    # KubeRay makes this service for the head.
    head = one("RayCluster", "perennial")["metadata"]["name"] + "-head-svc"
    ports = {
        p["name"]: p["containerPort"] for p in CONTAINERS["RayCluster/perennial/head"]["ports"]
    }
    assert ports["gcs-server"] == 6379
    serve = CONTAINERS["Deployment/serve"]
    assert serve["args"][:3] == ["on-ray-node", f"{head}:6379", "perennial"]
    urls = {
        (url.hostname, url.port)
        for name in PODS
        for value in variables_of(name).values()
        for url in map(urlsplit, re.findall(r"\w+(?:\+\w+)?://[\w@.-]+:\d+", value))
        if url.hostname != "127.0.0.1" and url.hostname != "localhost"
    }
    assert urls == known


def test_probes_ask_what_answers_without_a_login() -> None:
    paths = {
        (name.split("/")[-1], probe["httpGet"]["path"], probe["httpGet"]["port"])
        for name, container in CONTAINERS.items()
        for key, probe in container.items()
        if key.endswith("Probe") and "httpGet" in probe
    }
    assert paths == {
        ("prefect", "/api/health", "http"),
        ("mlflow", "/health", "http"),
        ("head", "/api/healthz", 52365),
        ("workers", "/api/healthz", 52365),
        ("serve", "/api/healthz", "agent"),
    }
    for name in ("StatefulSet/postgres", "Deployment/prefect", "Deployment/mlflow"):
        assert {"readinessProbe", "livenessProbe"} <= set(CONTAINERS[name])


def test_servers_are_not_drained_unseen() -> None:
    for name in ("prefect", "mlflow"):
        budget = one("PodDisruptionBudget", name)["spec"]
        labels = PODS[f"Deployment/{name}"]["metadata"]["labels"]
        assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_postgresql_is_prepared_by_the_same_script_as_in_compose() -> None:
    script = one("ConfigMap", "postgres-init")["data"]["init.sh"]
    assert script == (IMAGES / "postgres-init.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["RayCluster/perennial", "RayJob/update-"])
def test_a_ray_cluster_is_what_kuberay_expects(name: str) -> None:
    spec = ray_clusters()[name]
    assert set(spec) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert spec["rayVersion"] == pinned()["ray"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "ray"}
    assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in spec["workerGroupSpecs"]:
        keys = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert set(group) == keys
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    head = spec["headGroupSpec"]
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())
    ports = {port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert {"gcs-server", "dashboard", "agent"} <= ports
    assert head["rayStartParams"]["num-cpus"] == "0"
    compose = load_yaml(KUBERNETES.parent / "compose.yaml")[0]["services"]["ray-head"]
    settings = {
        k: v for k, v in compose["environment"].items() if re.match("RAY_(health|START)", k)
    }
    assert len(settings) == 4
    assert settings.items() <= variables_of(f"{name}/head").items()
    for role in ("head", "workers"):
        container = CONTAINERS[f"{name}/{role}"]
        assert container["image"] == f"perennial:{project()['version']}"
        # The operator writes these.
        assert not {"command", "args"} & set(container)
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


def test_the_job_is_what_kuberay_accepts() -> None:
    spec = one("RayJob", "update-")["spec"]
    # The rules of its validation: a time to live needs a shutdown, retries exclude a selector.
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert "clusterSelector" not in spec
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


def test_serve_has_room_in_memory_for_rays_object_store() -> None:
    # KubeRay gives its own pods what this one has to ask for.
    container, pod = CONTAINERS["Deployment/serve"], PODS["Deployment/serve"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}}
    assert shm in pod["spec"]["volumes"]
    script = (IMAGES / "on-ray-node.sh").read_text(encoding="utf-8")
    assert "--object-store-memory=268435456 " in script


def may_talk(source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
    """Whether the policies let a pod with these labels reach another one of the namespace."""
    policies = [r["spec"] for r in RESOURCES if r["kind"] == "NetworkPolicy"]

    def lets(own: Mapping[str, str], other: Mapping[str, str], way: str, side: str) -> bool:
        return any(
            _selects(peer, other) and _opens(rule, port)
            for policy in policies
            if _matches(policy["podSelector"], own)
            for rule in policy.get(way, ())
            for peer in rule[side]
        )

    return lets(source, target, "egress", "to") and lets(target, source, "ingress", "from")


def _matches(selector: Resource, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def _selects(peer: Resource, labels: Mapping[str, str]) -> bool:
    return set(peer) == {"podSelector"} and _matches(peer["podSelector"], labels)


def _opens(rule: Resource, port: int) -> bool:
    return "ports" not in rule or port in [entry["port"] for entry in rule["ports"]]


def test_nobody_talks_to_anybody_unless_a_policy_says_so() -> None:
    deny = one("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_pod_reaches_what_it_needs_and_nothing_else() -> None:
    ports = (4200, 5000, 5432, 6379, 8265, 10001, 52365, 30000)
    ray_nodes = {name for name in PODS if "Ray" in name and "submitter" not in name}
    ray_nodes.add("Deployment/serve")
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    open_ways = {
        (source.split("/", 1)[1], target.split("/", 1)[1], port)
        for source in PODS
        for target in PODS
        for port in ports
        if source != target
        and may_talk(labels[source], labels[target], port)
        # Ray's nodes are one thing here.
        and not {source, target} <= ray_nodes
    }
    assert open_ways == {
        ("prefect", "postgres", 5432),
        ("mlflow", "postgres", 5432),
        ("serve", "prefect", 4200),
        ("serve", "mlflow", 5000),
        ("update-/head", "prefect", 4200),
        ("update-/head", "mlflow", 5000),
        *(("update-/submitter", node.split("/", 1)[1], 8265) for node in ray_nodes),
    }
    for source in ray_nodes:
        for target in ray_nodes:
            assert all(may_talk(labels[source], labels[target], port) for port in ports)


def test_only_what_reads_or_writes_the_store_reaches_s3() -> None:
    policy = one("NetworkPolicy", "s3")["spec"]
    reaching = {
        name.split("/")[-1]
        for name, pod in PODS.items()
        if _matches(policy["podSelector"], pod["metadata"]["labels"])
    }
    assert reaching == {"mlflow", "serve", "head", "workers"}
    (rule,) = policy["egress"]
    # The addresses of the cloud's metadata service, which would hand out the node's own rights.
    assert rule["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]
