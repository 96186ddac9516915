"""Where the API server is and who we are: a kubeconfig, or the service account of the pod. One source for our client and for kopf's."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kopf
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_incluster_config
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.kube_config import load_kube_config

RELOAD_AFTER = timedelta(minutes=10)
"""Kopf asks again after this time: tokens of service accounts and of exec plugins are short-lived."""
AGAIN_SECONDS = 2.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class NoConnection(Exception):
    """There is no usable kubeconfig, and this is no pod."""


@dataclass(slots=True)
class Connection:
    """How to reach the API server. `configuration` is the official client's; `reload` keeps its identity.

    Proxies of the environment are not asked: the client would look for them, in a thread, at every request.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    configuration: Any = field(default_factory=lambda: Configuration(client_session_kwargs={"trust_env": False}))
    _asked: float = float("-inf")

    async def reload(self) -> None:
        """Read address and credentials, at start and after a 401.

        Raises:
            NoConnection: nothing says where the API server is, or the kubeconfig is wrong.
        """
        if self.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            try:
                load_incluster_config(self.configuration)
            except ConfigException as error:
                raise NoConnection(f"the service account of this pod is not usable: {error}") from error
            return
        file = str(self.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        try:
            await load_kube_config(file, self.context, client_configuration=self.configuration, persist_config=False)
        except (ConfigException, OSError) as error:
            raise NoConnection(f"--kubeconfig {file}: {error}") from error

    async def authorization(self) -> str | None:
        """Value of the Authorization header; None with client certificates. A service account's token is read anew every minute."""
        header: str | None = await self.configuration.get_api_key_with_prefix("BearerToken")
        return header or None

    async def for_kopf(self) -> kopf.ConnectionInfo:
        """The same for kopf's watches, read anew. Refused credentials that stay the same are not tried in a tight loop."""
        if time.monotonic() - self._asked < AGAIN_SECONDS:
            await asyncio.sleep(AGAIN_SECONDS)
        self._asked = time.monotonic()
        await self.reload()
        scheme, _, token = (await self.authorization() or "").rpartition(" ")
        configuration = self.configuration
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme=scheme or None,
            token=token or None,
            expiration=datetime.now(UTC) + RELOAD_AFTER,
        )


def own_namespace(default: str) -> str:
    """Namespace of this pod; `default` outside a cluster."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or default
    except OSError:
        return default
