"""RLHFJobs of one namespace (a list may be of all), and what belongs to them: pods, their logs, events. Plain dictionaries in and out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_api import names
from rlhf_cli.cluster.connection import ApiRefused, Connection
from rlhf_cli.cluster.refusals import explain
from rlhf_cli.story import time_of_event

Object = dict[str, Any]
PAGE = 500


@dataclass(frozen=True, slots=True)
class Jobs:
    """Every method raises CommandError when the server refuses, with what to change; `Unreachable` when nobody answers."""

    connection: Connection

    @property
    def namespace(self) -> str:
        return self.connection.namespace

    def get(self, name: str) -> Object:
        """The job of that name."""
        return self._request("GET", self._path(name), name)

    def every(self) -> list[Object]:
        """All jobs of the namespace, by name."""
        return self._pages(self._path(), {})

    def everywhere(self) -> list[Object]:
        """All jobs of all namespaces, by namespace and name."""
        return self._pages(f"/apis/{names.GROUP}/{names.VERSION}/{names.PLURAL_JOB}", {})

    def create(self, job: Mapping[str, Any]) -> Object:
        """Create a job. Unknown fields are an error here, as they are for kubectl; the server checks every rule before anything starts."""
        return self._request("POST", self._path(), job["metadata"]["name"], {"fieldValidation": "Strict"}, job)

    def patch(self, name: str, spec: Mapping[str, Any]) -> Object:
        """Change these fields of the spec and no others; None removes one."""
        return self._request("PATCH", self._path(name), name, {"fieldValidation": "Strict"}, {"spec": spec}, "application/merge-patch+json")

    def pods(self, job: Mapping[str, Any]) -> list[Object]:
        """Pods of all attempts that still have some, running or ended."""
        selector = f"{names.LABEL_JOB_UID}={job['metadata']['uid']}"
        return self._pages(f"/api/v1/namespaces/{self.namespace}/pods", {"labelSelector": selector})

    def events(self, job: Mapping[str, Any]) -> list[Object]:
        """Events about the job itself, the newest last."""
        selector = f"involvedObject.uid={job['metadata']['uid']}"
        found = self._pages(f"/api/v1/namespaces/{self.namespace}/events", {"fieldSelector": selector})
        return sorted(found, key=time_of_event)

    def pod(self, name: str) -> Object | None:
        """A pod; None when it is gone."""
        try:
            return self.connection.request("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        except ApiRefused as error:
            if error.code == 404:
                return None
            raise explain(error, self.connection, f"GET pods/{name}", name) from error

    def log(self, pod: str, *, follow: bool, since: str | None = None) -> Iterator[bytes]:
        """The lines of a pod, each with its time in front; from `since` on when it is given, and until the container ends with `follow`.

        Raises:
            ApiRefused: 400 before the container runs, 404 when the pod is gone. The caller knows what that means to it.
        """
        query = {"container": names.CONTAINER, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"sinceTime": since} if since else {}
        return self.connection.lines(f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log", query)

    def _path(self, name: str = "") -> str:
        path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{self.namespace}/{names.PLURAL_JOB}"
        return f"{path}/{name}" if name else path

    def _pages(self, path: str, query: Mapping[str, str]) -> list[Object]:
        items: list[Object] = []
        token = ""
        while True:
            page = self._request("GET", path, "", {**query, "limit": str(PAGE), **({"continue": token} if token else {})})
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def _request(
        self,
        method: str,
        path: str,
        name: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            return self.connection.request(method, path, query=query, body=body, content_type=content_type)
        except ApiRefused as error:
            raise explain(error, self.connection, f"{method} {path}", name) from error
