"""A small Kubernetes API server in this process: HTTP in, objects of the embedded store out, with the faults that clusters have.

It speaks as much of the protocol as kopf and the operator's client use: discovery, get, list, watch with resourceVersion, create, replace,
server-side apply of a status, merge patch, delete with preconditions, bearer tokens. Everything runs in the caller's event loop.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from rlhf_api import names
from rlhf_operator.local.memory import MemoryApi
from rlhf_operator.local.store import Store
from rlhf_operator.shell.kinds import PLURALS, PREFIXES
from rlhf_operator.shell.kube import ApiError, Gone, NotFound, Object

_KINDS = {(PREFIXES[kind], plural): kind for kind, plural in PLURALS.items()}
_CLUSTER_SCOPED = {names.KIND_PROFILE, "Namespace", "Node", "StorageClass"}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class ApiServer:
    """Serves one store on a free port of 127.0.0.1.

    Attributes:
        requests: "VERB Kind" of every request but watches, in order; `paths` has the name too.
        hidden: kinds whose definition is not installed.
        tokens: bearer tokens that are let in.
        intercept: asked before every request but discovery; a response it returns is sent instead.
    """

    def __init__(self) -> None:
        self.store = Store(lambda: datetime.now(UTC))
        self.api = MemoryApi(self.store)
        self.requests: list[str] = []
        self.paths: list[str] = []
        self.accepts: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.tokens = {"first"}
        self.intercept: Callable[[str, str], web.Response | None] = lambda verb, kind: None
        self.watches: dict[asyncio.Task[Any], str] = {}
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Go away, with every open connection."""
        self.drop_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, file: Path, token: str = "first") -> Path:
        """A kubeconfig for a token, written or written again."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "wire", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "wire", "user": {"token": token}}],
            "contexts": [{"name": "wire", "context": {"cluster": "wire", "user": "wire"}}],
            "current-context": "wire",
        }
        file.write_text(json.dumps(config), encoding="utf-8")
        return file

    def drop_watches(self) -> None:
        """Cut every watch, as a load balancer does."""
        for task in list(self.watches):
            task.cancel()

    def forget_history(self) -> None:
        """Watches from any earlier version get 410 now."""
        self.store._history.clear()
        self.store._oldest = self.store.version

    def count(self, request: str) -> int:
        """How often a request was made: "create Job"."""
        return self.requests.count(request)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization", "").partition(" ")[2] not in self.tokens:
            return _status(401, "Unauthorized", "the token is not known")
        parts = request.path.strip("/").split("/")
        if len(parts) <= (2 if parts[0] == "api" else 3) and request.method == "GET":
            return web.json_response(_discovery(parts))
        try:
            return await self._serve(request, parts)
        except ApiError as error:
            return _status(error.code, error.reason, error.message)

    async def _serve(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        kind, namespace, name, is_status = _parse(parts)
        verb = _verb(request, name, is_status)
        if verb != "watch":
            self.requests.append(f"{verb} {kind}")
            self.paths.append(f"{verb} {kind} {name}")
            self.accepts[f"{verb} {kind}"] = request.headers.get("Accept", "")
        if kind in self.hidden:
            raise NotFound("the server could not find the requested resource")
        planned = self.intercept(verb, kind)
        if planned is not None:
            return planned
        serve: Callable[..., Awaitable[web.StreamResponse]] = getattr(self, f"_{verb}")
        return await serve(request, kind, namespace, name)

    async def _get(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        return web.json_response(await self.api.get(kind, namespace, name))

    async def _list(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        items = self._find(kind, namespace, request.query.get("labelSelector", ""))
        return web.json_response({"kind": f"{kind}List", "metadata": {"resourceVersion": str(self.store.version)}, "items": items})

    async def _create(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        return web.json_response(await self.api.create(kind, namespace, await request.json()), status=201)

    async def _update(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        return web.json_response(await self.api.replace(kind, namespace, await request.json()))

    async def _apply(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        body = await request.json()
        metadata = body["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        applied = await self.api.apply_status(kind, namespace, name, body["status"], uid=uid, resource_version=version)
        return web.json_response(applied)

    async def _patch(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        body = {**self.store.get(kind, namespace, name), **(await request.json())}
        return web.json_response(self.store.replace_whole(kind, namespace, body))

    async def _delete(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        options = await request.json() if request.can_read_body else {}
        uid = (options.get("preconditions") or {}).get("uid", "")
        await self.api.delete(kind, namespace, name, uid=uid, propagation=options.get("propagationPolicy", "Background"))
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _watch(self, request: web.Request, kind: str, namespace: str, name: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        version = int(request.query.get("resourceVersion") or self.store.version)
        task = asyncio.current_task()
        assert task is not None
        self.watches[task] = kind
        with suppress(asyncio.CancelledError, ConnectionResetError):
            await self._send_events(response, kind, namespace, version, request.query.get("labelSelector", ""))
        del self.watches[task]
        return response

    async def _send_events(self, response: web.StreamResponse, kind: str, namespace: str, version: int, label: str) -> None:
        while True:
            try:
                events = self.store.events_since(version)
            except Gone as error:
                gone = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": error.message}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return
            for event in events:
                metadata = event.object["metadata"]
                wanted = event.object["kind"] == kind and namespace in ("", metadata["namespace"])
                if wanted and (not label or label in metadata.get("labels", {})):
                    await response.write(json.dumps({"type": event.type, "object": event.object}).encode() + b"\n")
                version = max(version, event.version)
            await self.store.wait_for_change(version)

    def _find(self, kind: str, namespace: str, selector: str) -> list[Object]:
        namespaces = [namespace] if namespace or kind in _CLUSTER_SCOPED else self.store.namespaces(kind)
        return [item for each in namespaces for item in self.store.find(kind, each, selector)]


def refused(code: int, reason: str, message: str = "planned by the test", **headers: str) -> web.Response:
    """An answer for `intercept`."""
    return _status(code, reason, message, headers)


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


def _verb(request: web.Request, name: str, is_status: bool) -> str:
    if request.method == "GET":
        return "get" if name else "watch" if request.query.get("watch") in ("true", "1") else "list"
    if request.method == "PATCH":
        return "apply" if is_status else "patch"
    return {"POST": "create", "PUT": "update", "DELETE": "delete"}[request.method]


def _parse(parts: list[str]) -> tuple[str, str, str, bool]:
    """Kind, namespace, name, and whether the status is meant."""
    size = 2 if parts[0] == "api" else 3
    prefix, rest = "/".join(parts[:size]), parts[size:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    kind = _KINDS.get((prefix, rest[0]))
    if kind is None:
        raise NotFound("the server could not find the requested resource")
    return kind, namespace, rest[1] if len(rest) > 1 else "", rest[2:] == ["status"]


def _discovery(parts: list[str]) -> dict[str, Any]:
    groups = sorted({prefix.split("/")[1] + "/" + prefix.split("/")[2] for prefix in PREFIXES.values() if prefix.startswith("apis/")})
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        listed = [_group(*group.split("/")) for group in groups]
        return {"kind": "APIGroupList", "groups": listed}
    prefix = "/".join(parts)
    return {
        "kind": "APIResourceList",
        "groupVersion": "/".join(parts[1:]),
        "resources": [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": kind not in _CLUSTER_SCOPED, "verbs": _VERBS}
            for (where, plural), kind in _KINDS.items()
            if where == prefix
        ],
    }


def _group(name: str, version: str) -> dict[str, Any]:
    known = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [known], "preferredVersion": known}
