"""Whether a server answers, asked over HTTP with its password, or by the file that it writes."""

import base64
import http.client
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from infra.stack.state import PartRecord, StackFolder

_SECONDS = 5.0


def get(url: str, headers: Mapping[str, str]) -> bytes | None:
    """Body of the answer when it is 200, else None."""
    parts = urlsplit(url)
    # Not urllib.request: it follows proxies of the environment, and a server here needs none.
    connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == http.client.OK else None


def all_answer(urls: tuple[str, ...], headers: Mapping[str, str]) -> bool:
    """Whether every page answers with 200."""
    return all(get(url, headers) is not None for url in urls)


def has_registered(folder: StackFolder, record: PartRecord | None) -> bool:
    """Whether ``perennial serve``, which listens nowhere, has registered its lineages."""
    if record is None or not folder.serving.exists():
        return False
    return folder.serving.read_text(encoding="ascii") == str(record.pid)


def basic(login: str) -> dict[str, str]:
    """The header of HTTP basic authentication for ``user:password``."""
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    """The header that carries Ray's token."""
    return {"Authorization": f"Bearer {token}"}


def has_ray_node(dashboard_url: str, token: str, name: str, record: PartRecord | None) -> bool:
    """Whether Ray's control store answers, and knows the living node that ``record`` is of.

    A node that was killed counts as living for some seconds; its successor has the same name, and
    a later start.
    """
    if record is None or get(f"{dashboard_url}/api/gcs_healthz", {}) is None:
        return False
    body = get(f"{dashboard_url}/nodes?view=summary", bearer(token))
    if body is None:
        return False
    since_ms = datetime.fromisoformat(record.since).timestamp() * 1000
    try:
        nodes: list[dict[str, Any]] = json.loads(body)["data"]["summary"]
        return any(
            node["raylet"]["nodeName"] == name
            and node["raylet"].get("state") == "ALIVE"
            and int(node["raylet"]["startTimeMs"]) >= since_ms
            for node in nodes
        )
    except (ValueError, KeyError, TypeError):
        return False
