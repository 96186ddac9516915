"""What the operator asks of Kubernetes: seven verbs over plain dictionaries, and the errors that they raise.

`reconciler.py` talks to this protocol only. A cluster adapter and `local/memory.py` implement it, so the same reconcile runs in
both. Objects are the JSON of the API server. Reads are consistent (`resourceVersion` unset) and carry no `managedFields`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Object = dict[str, Any]
"""One Kubernetes object as JSON: apiVersion, kind, metadata and the rest."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing. `continue_token` is empty on the last page."""

    items: tuple[Object, ...]
    resource_version: str
    continue_token: str = ""


class KubeApi(Protocol):
    """The API server, as far as the operator needs it. Cluster-scoped kinds have the namespace "".

    Raises:
        ApiError: from every method. `NotFound`, `AlreadyExists`, `Conflict`, … say what happened; `Unavailable` that nobody knows.
    """

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """The object as it is now."""
        ...

    async def list(
        self, kind: str, namespace: str, *, selector: str = "", fields: str = "", limit: int = 500, continue_token: str = ""
    ) -> Page:
        """Objects whose labels match `selector` (`key=value` and `key`, joined by commas), ordered by name. `fields` selects Events."""
        ...

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """POST: fails with `AlreadyExists` when the name is taken, whoever owns it. The answer has at least the metadata."""
        ...

    async def replace(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """PUT: `Conflict` when metadata.resourceVersion is given and stale."""
        ...

    async def apply_status(
        self, kind: str, namespace: str, name: str, status: Mapping[str, Any], *, uid: str, resource_version: str
    ) -> Object:
        """Server-side apply of the whole desired status, by the field manager `rlhf-operator`, with force; answers like `create`.

        Raises:
            Conflict: the object has another uid or a newer resourceVersion than the one the decision was made from.
        """
        ...

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str = "", propagation: str = "Background") -> None:
        """Delete, only if the uid matches when one is given. `Foreground` keeps the object until its dependants are gone."""
        ...


class ApiError(Exception):
    """The API server refused or did not answer: what the operator sees of it.

    ├── Unavailable      5xx, timeout, connection lost: unknown whether the request was applied; decide nothing from it
    ├── Throttled        429: wait `retry_after_seconds`
    ├── Unauthorized     401: reload the token
    ├── Forbidden        403: quota, terminating namespace, missing right
    ├── NotFound         404
    ├── AlreadyExists    409 on create
    ├── Conflict         409: stale resourceVersion or another uid
    ├── Gone             410: the watch must list again
    └── Invalid          422: the object breaks a rule, for example an immutable field
    """

    code: int = 0
    reason: str = "Unknown"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ApiError):
    """5xx, a timeout or a lost connection. The request may have been applied."""

    code, reason = 500, "InternalError"


class Throttled(ApiError):
    """429. `retry_after_seconds` is the server's wish."""

    code, reason = 429, "TooManyRequests"


class Unauthorized(ApiError):
    """401: the token expired."""

    code, reason = 401, "Unauthorized"


class Forbidden(ApiError):
    """403. `is_quota` and `is_terminating` tell the two that have a reaction of their own."""

    code, reason = 403, "Forbidden"

    @property
    def is_quota(self) -> bool:
        """A ResourceQuota refused the create."""
        return "exceeded quota" in self.message

    @property
    def is_terminating(self) -> bool:
        """The namespace is being deleted."""
        return "because it is being terminated" in self.message


class NotFound(ApiError):
    """404."""

    code, reason = 404, "NotFound"


class AlreadyExists(ApiError):
    """409 on create: an object of that name exists."""

    code, reason = 409, "AlreadyExists"


class Conflict(ApiError):
    """409: the object changed since it was read, or is another one of the same name."""

    code, reason = 409, "Conflict"


class Gone(ApiError):
    """410: the requested version is older than the history that is kept."""

    code, reason = 410, "Expired"


class Invalid(ApiError):
    """422: the object breaks a rule of the API."""

    code, reason = 422, "Invalid"
