"""Why the API server said no, in the words of the command line: its answer in, a `CommandError` with field, value, rule and fix out."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_api import names
from rlhf_api.outcome import ExitCode
from rlhf_cli.cluster.connection import ApiRefused, Connection
from rlhf_cli.errors import EX_FAILURE, CommandError

_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']+)' .*?denied request: (.*)", re.DOTALL)
_STRAY_FIELD = re.compile(r'(unknown|duplicate) field "([^"]+)"')
_STRAY = {"unknown": "is not a field of the API of this cluster: correct its name, or remove it", "duplicate": "stands twice: remove one"}
INSTALL = "install the operator (docs/install.md), or choose another cluster with --context"


def explain(error: ApiRefused, connection: Connection, request: str, name: str) -> CommandError:
    """The error for a command about the job `name`. `request` says what was asked, for what nobody foresaw."""
    if (denied := _denied_by_policy(error.message)) is not None:
        return CommandError(ExitCode.CONFIG, denied)
    match error.code:
        case 400 | 422:
            return CommandError(ExitCode.CONFIG, *_invalid(error))
        case 401:
            return CommandError(EX_FAILURE, f"--context: '{connection.context}' does not know this user ({error.message}): log in again")
        case 403:
            return _forbidden(error, connection, request)
        case 404:
            return CommandError(ExitCode.CONFIG, _not_found(error, connection, name))
        case 409 if error.status.get("reason") == "AlreadyExists":
            return CommandError(ExitCode.CONFIG, _exists(connection, name))
        case _:
            return CommandError(
                EX_FAILURE, f"{request}: {error.code} {error.message}: try again; it is the API server's trouble, not the job's"
            )


def _invalid(error: ApiRefused) -> Iterator[str]:
    """One line a field, as `rlhf validate` prints them; the server's own message when it names no field."""
    causes = error.details.get("causes") or []
    fields = _STRAY_FIELD.findall(error.message) if not causes else []
    yield from (_cause(cause) for cause in causes)
    yield from (f"{path}: {_STRAY[kind]}" for kind, path in fields)
    if not causes and not fields:
        yield from error.message.splitlines()


def _cause(cause: Mapping[str, Any]) -> str:
    """`field: value: rule`, without the words that the server repeats: the field, and `"object"` for a value that is a mapping."""
    field, message = cause.get("field") or "document", str(cause.get("message", ""))
    rule = message.removeprefix('Invalid value: "object": ').removeprefix("Invalid value: ")
    return f"{field}: {rule.replace(f'{field} in body ', '')}"


def _denied_by_policy(message: str) -> str | None:
    """The rule of an admission policy that denied a request, its name and the fix; None for every other refusal."""
    found = _POLICY.search(message)
    if found is None:
        return None
    policy, rule = found.groups()
    fix = "ask for less, or for another profile" if policy == names.PROFILE_POLICY else "change the job accordingly"
    return f"spec: {rule} (denied by {policy}): {fix}"


def _forbidden(error: ApiRefused, connection: Connection, request: str) -> CommandError:
    if request.endswith(f"/{names.VERSION}/{names.PLURAL_JOB}"):  # without a namespace: the jobs of all
        fix = "name a namespace with -n, or ask for the ClusterRole rlhf-user in a ClusterRoleBinding"
        return CommandError(EX_FAILURE, f"-A: '{connection.context}' does not let you see all namespaces ({error.message}): {fix}")
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
