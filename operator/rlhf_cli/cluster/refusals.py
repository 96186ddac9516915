"""Why the API server said no, in the words of the command line: its answer in, a `CommandError` with field, value, rule and fix out."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_cli.cluster.connection import EX_CONFIG, EX_FAILURE, ApiRefused, Connection
from rlhf_cli.errors import CommandError

INSTALL = "install the operator (docs/install.md), or choose another cluster with --context"


def explain(error: ApiRefused, connection: Connection, request: str, name: str) -> CommandError:
    """The error for a command about the job `name`. `request` says what was asked, for what nobody foresaw."""
    match error.code:
        case 400 | 422:
            return CommandError(EX_CONFIG, *_invalid(error))
        case 401:
            return CommandError(EX_FAILURE, f"--context: '{connection.context}' does not know this user ({error.message}): log in again")
        case 403:
            return _forbidden(error, connection)
        case 404:
            return CommandError(EX_CONFIG, _not_found(error, connection, name))
        case 409 if error.status.get("reason") == "AlreadyExists":
            return CommandError(EX_CONFIG, _exists(connection, name))
        case _:
            return CommandError(
                EX_FAILURE, f"{request}: {error.code} {error.message}: try again; it is the API server's trouble, not the job's"
            )


def _invalid(error: ApiRefused) -> Iterator[str]:
    """One line a field, as `rlhf validate` prints them; the server's own message when it names no field."""
    causes = error.details.get("causes") or []
    yield from (_cause(cause) for cause in causes)
    if not causes:
        yield from error.message.removeprefix("admission webhook ").splitlines()


def _cause(cause: Mapping[str, Any]) -> str:
    """`field: rule`. `Invalid value: "object": rule` says nothing with its value, so the rule alone stays."""
    message = str(cause.get("message", ""))
    rule = message.removeprefix('Invalid value: "object": ').removeprefix("Invalid value: ")
    return f"{cause.get('field') or 'document'}: {rule}"


def _forbidden(error: ApiRefused, connection: Connection) -> CommandError:
    """A policy that denies this job, or a right that the user does not have: two different fixes."""
    marker = "denied request: "
    if marker in error.message:
        policy, _, rule = error.message.partition(marker)
        name = policy.split("'")[1] if "'" in policy else "an admission policy"
        return CommandError(EX_CONFIG, f"spec: {rule} (denied by {name}): change the job, or ask the platform team for another profile")
    fix = f"ask for the ClusterRole rlhf-user in the namespace {connection.namespace}"
    return CommandError(EX_FAILURE, f"-n: '{connection.namespace}' does not let you do this ({error.message}): {fix}")


def _not_found(error: ApiRefused, connection: Connection, name: str) -> str:
    kind = error.details.get("kind", "")
    if kind == "namespaces":
        return f"-n: '{connection.namespace}' is no namespace of {connection.context}: create it, or name another one"
    if not error.details.get("name"):
        return f"--context: '{connection.context}' at {connection.host} has no RLHFJobs (the CRDs are missing): {INSTALL}"
    what = "pod" if kind == "pods" else "RLHFJob"
    listing = f"list them with: rlhf get -n {connection.namespace}"
    return f"JOB: {name!r} is no {what} in namespace {connection.namespace} of {connection.context}: {listing}"


def _exists(connection: Connection, name: str) -> str:
    change = "change it with kubectl apply, delete it with kubectl delete rlhfjob, or give this one another name"
    return f"metadata.name: {name!r} exists already in namespace {connection.namespace}: {change}"
