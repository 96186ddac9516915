"""`KubeApi` of a real cluster: raw JSON over the official client's connection. Calls in, HTTP out, errors of `kube.py` back.

The client's typed models were rejected: they cost five times as much CPU per object. Every request passes the token bucket; every write
first asks the guard whether this process still leads. 429 pauses the bucket; 401 reads the credentials anew and tries once more.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from rlhf_api import names
from rlhf_operator.shell.api_errors import error_of
from rlhf_operator.shell.bucket import TokenBucket
from rlhf_operator.shell.connection import Connection
from rlhf_operator.shell.kinds import path_of, typed
from rlhf_operator.shell.kube import Object, Page, Throttled, Unavailable
from rlhf_operator.shell.metrics import Metrics

_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Secrets: consent is a label, so their data never reaches this process. And answers to writes, which nobody needs whole."""


class ClusterApi:
    """The API server of a cluster. Raises what `kube.KubeApi` promises.

    Args:
        guard: called before every write; raises when this process may not write any more.
    """

    def __init__(self, connection: Connection, bucket: TokenBucket, metrics: Metrics, guard: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._bucket = bucket
        self._metrics = metrics
        self._guard = guard
        self._client = ApiClient(connection.configuration)
        self._agent = f"{names.MANAGER}/{metrics.version}"

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """The object as it is now; of a Secret only its metadata."""
        accept = _METADATA_ONLY if kind == "Secret" else "application/json"
        return _visible(await self._request("GET", "get", kind, path_of(kind, namespace, name), accept=accept))

    async def list(
        self, kind: str, namespace: str, *, selector: str = "", fields: str = "", limit: int = 500, continue_token: str = ""
    ) -> Page:
        """One page of the objects that match."""
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(limit), "continue": continue_token}
        url = path_of(kind, namespace) + "?" + urlencode({key: value for key, value in query.items() if value})
        body = await self._request("GET", "list", kind, url)
        items = tuple(_visible(typed(kind, item)) for item in body.get("items") or ())  # a listing says it once, for all
        return Page(items, body["metadata"].get("resourceVersion", ""), body["metadata"].get("continue", ""))

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """POST; answers with the metadata of what was created."""
        url = path_of(kind, namespace)
        return _visible(await self._request("POST", "create", kind, url, typed(kind, body), accept=_METADATA_ONLY))

    async def replace(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """PUT."""
        return _visible(await self._request("PUT", "update", kind, path_of(kind, namespace, body["metadata"]["name"]), typed(kind, body)))

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """A JSON merge patch."""
        url = path_of(kind, namespace, name)
        return _visible(await self._request("PATCH", "patch", kind, url, patch, content="application/merge-patch+json"))

    async def apply_status(
        self, kind: str, namespace: str, name: str, status: Mapping[str, Any], *, uid: str, resource_version: str
    ) -> Object:
        """Server-side apply on `/status`. uid and version in the body make the server answer 409 when the object has moved on."""
        metadata = {"name": name, "uid": uid, "resourceVersion": resource_version}
        url = path_of(kind, namespace, name) + f"/status?fieldManager={names.MANAGER}&force=true"
        body = typed(kind, {"metadata": metadata, "status": status})
        content = "application/apply-patch+yaml"
        return _visible(await self._request("PATCH", "apply", kind + "/status", url, body, accept=_METADATA_ONLY, content=content))

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str = "", propagation: str = "Background") -> None:
        """DELETE with the uid as precondition when given."""
        options = {"propagationPolicy": propagation, **({"preconditions": {"uid": uid}} if uid else {})}
        await self._request("DELETE", "delete", kind, path_of(kind, namespace, name), options, accept=_METADATA_ONLY)

    async def _request(
        self,
        method: str,
        verb: str,
        kind: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        accept: str = "application/json",
        content: str = "application/json",
    ) -> Object:
        self._metrics.throttled(await self._bucket.take())
        if method != "GET":
            self._guard()
        started, code = time.monotonic(), 0
        try:
            code, answer, retry_after = await self._send(method, url, body, accept, content)
            if code == 401:
                await self._connection.reload()
                code, answer, retry_after = await self._send(method, url, body, accept, content)
        finally:
            self._metrics.requested(verb, kind, code, time.monotonic() - started)
        if code < 300:
            parsed: Object = json.loads(answer)
            return parsed
        error = error_of(code, answer, retry_after)
        if isinstance(error, Throttled):
            self._bucket.pause(error.retry_after_seconds or 1.0)
        raise error

    async def _send(
        self, method: str, url: str, body: Mapping[str, Any] | None, accept: str, content: str
    ) -> tuple[int, bytes, str | None]:
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": self._agent}
        try:
            authorization = await self._connection.authorization()
            if authorization:
                headers["Authorization"] = authorization
            host = self._connection.configuration.host
            response = await self._client.rest_client.request(method, f"{host}/{url}", headers, body, _request_timeout=_TIMEOUT)
            return response.status, await response.read(), response.getheader("Retry-After")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {url.partition('?')[0]}: {error or 'timed out'}") from error


def _visible(body: Object) -> Object:
    body.get("metadata", {}).pop("managedFields", None)
    return body
