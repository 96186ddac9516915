"""Requests to an API server: a target and a path in, the JSON of the answer out. Address and credentials come from the official client.

Every failure is an `ApiRefused` (the server answered and said no) or a `CommandError` that says what to change. Objects stay plain
dictionaries: the client's typed models know nothing of an RLHFJob.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from rlhf_api.outcome import ExitCode
from rlhf_cli.cluster.target import Target
from rlhf_cli.errors import EX_FAILURE, CommandError

CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0


class ApiRefused(Exception):
    """The API server answered with an error. `status` is its Status object; a message of its own when it sent none."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        super().__init__(str(status.get("message") or f"HTTP {code}"))
        self.code = code
        self.status = status

    @property
    def message(self) -> str:
        """The server's words."""
        return str(self)

    @property
    def details(self) -> Mapping[str, Any]:
        """What the message is about: name, kind and causes, as far as the server says."""
        return self.status.get("details") or {}


class Unreachable(CommandError):
    """Nobody answered. A command that waits goes on trying."""


@dataclass(slots=True)
class Connection:
    """An open way to one API server, and the namespace that commands mean when they name none."""

    client: Any
    context: str
    namespace: str

    @property
    def host(self) -> str:
        """Address of the API server, for messages."""
        return str(self.client.configuration.host)

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """The object that the server answers with.

        Raises:
            ApiRefused: it answered with an error.
            Unreachable: it did not answer.
        """
        with self._answer(method, path, query, body, content_type, READ_SECONDS) as answer:
            loaded: dict[str, Any] = json.loads(answer.read())
            return loaded

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """The lines of a text answer as they come, for as long as the server sends. A lost connection ends them.

        Raises:
            ApiRefused: it answered with an error.
            Unreachable: it did not answer.
        """
        import urllib3

        with self._answer("GET", path, query, None, "application/json", None) as answer:
            try:
                yield from _whole_lines(answer.stream(65536))
            except urllib3.exceptions.HTTPError:
                return

    @contextmanager
    def _answer(
        self, method: str, path: str, query: Mapping[str, str] | None, body: object, content_type: str, read_seconds: float | None
    ) -> Iterator[Any]:
        import urllib3

        url = f"{self.client.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Accept": "application/json, */*", "Content-Type": content_type, "User-Agent": "rlhf-cli"}
        try:
            self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = self.client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=(CONNECT_SECONDS, read_seconds)
            ).response
        except (urllib3.exceptions.HTTPError, _api_exception()) as error:
            raise Unreachable(EX_FAILURE, self._unreachable(error)) from error
        try:
            if answer.status >= 400:
                raise ApiRefused(answer.status, _status_of(answer))
            yield answer
        finally:
            answer.close()

    def _unreachable(self, error: Exception) -> str:
        cause = getattr(error, "reason", None) or error
        words = str(cause).rpartition(": ")[2].strip().removeprefix("[").rstrip(".)")
        fix = "is the cluster running, and this machine in its network? Another cluster: --context"
        return f"--context: '{self.context}' at {self.host} does not answer ({words}): {fix}"


def connect(target: Target) -> Connection:
    """The cluster of a target, by the rules of kubectl: --kubeconfig, else $KUBECONFIG (several files are merged), else ~/.kube/config.

    Nothing is asked of the server yet.

    Raises:
        CommandError: 64, when there is no such file or context, or the file cannot be used.
    """
    from kubernetes import config

    file = str(target.kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config"))
    name = "--kubeconfig" if target.kubeconfig is not None else "KUBECONFIG"
    contexts, active = _contexts(file, name)
    context = target.context or active
    if context is None:
        raise CommandError(
            ExitCode.CONFIG, f"--context: '{file}' has no current context: name one of {', '.join(sorted(contexts)) or 'none'}"
        )
    if context not in contexts:
        raise CommandError(
            ExitCode.CONFIG, f"--context: {context!r} is not in '{file}': the contexts there are {', '.join(sorted(contexts))}"
        )
    try:
        client = config.new_client_from_config(file, context, persist_config=False, client_configuration=_configuration())
    except (config.ConfigException, OSError, ValueError) as error:
        raise CommandError(ExitCode.CONFIG, f"{name}: '{file}' cannot be used ({error}): repair the context {context!r} there") from error
    return Connection(client, context, target.namespace or contexts[context] or "default")


def _contexts(file: str, name: str) -> tuple[dict[str, str | None], str | None]:
    """Namespace of every context, and the current one."""
    import yaml  # type: ignore[import-untyped]  # the client's own parser: its errors are yaml's
    from kubernetes import config

    # os.path, because Path raises where the answer is no: at ~nobody, at a name that is too long
    files = [part for part in file.split(os.pathsep) if os.path.isfile(os.path.expanduser(part))]
    if not files:
        raise CommandError(ExitCode.CONFIG, f"{name}: '{file}' does not exist: name a kubeconfig with --kubeconfig, or set KUBECONFIG")
    try:
        loaded = config.kube_config.KubeConfigMerger(os.pathsep.join(files)).config
        entries = [entry.value for entry in loaded.value["contexts"]]
        return {entry["name"]: entry["context"].get("namespace") for entry in entries}, loaded.value.get("current-context") or None
    # A ValueError is a file that is no UTF-8.
    except (config.ConfigException, OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CommandError(ExitCode.CONFIG, f"{name}: '{file}' is no kubeconfig ({reason}): name another file with --kubeconfig") from error


def _configuration() -> Any:
    """Without retries inside the client: a person waits, and the message says at once what is wrong."""
    from kubernetes.client import Configuration

    configuration = Configuration()
    configuration.retries = False
    return configuration


def _api_exception() -> type[Exception]:
    """What the client makes of a TLS error."""
    from kubernetes.client.exceptions import ApiException

    found: type[Exception] = ApiException
    return found


def _status_of(answer: Any) -> Mapping[str, Any]:
    """The Status object in an error; its text as the message when it is none, as for a path that the server does not know."""
    text = answer.read().decode("utf-8", errors="replace").strip()
    try:
        status = json.loads(text)
    except ValueError:
        return {"message": text[:500]}
    return status if isinstance(status, dict) else {"message": text[:500]}


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends; the last one as it is."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
