"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes; a directory in, a kubeconfig out, ready in seconds.

Everything it writes is below the directory. One administrator's token is made at the start; other users are service accounts
(`service_account_kubeconfig`) or impersonated (`kubectl("--as=alice", …)`), as an administrator may.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.cluster import binaries
from tests.support.cluster.process import Program
from tests.support.cluster.rest import Rest
from tests.support.eventually import eventually

SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
CRDS = Path(__file__).parents[3] / "crds"
_READY_SECONDS = 60.0
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}


class KubectlError(Exception):
    """kubectl ended with another code than 0; the message is what it said on stderr."""


class ControlPlane:
    """A running control plane without nodes. Start it with `start`, from the main thread, and use it as a context manager.

    Attributes:
        kubeconfig: the administrator's, readable by kubectl and every client library.
        audit_log: one JSON object per request, when it was started with `audit=True`.
    """

    def __init__(self, directory: Path, address: str, *, audit: bool = False, outlives_us: bool = False) -> None:
        self.directory = directory
        self.address = address
        self.token = secrets.token_hex(16)
        self.kubeconfig = directory / "kubeconfig"
        self.audit_log = directory / "audit.log"
        self._audits = audit
        self._outlives_us = outlives_us
        self._programs: dict[str, Program] = {}
        self._flags: dict[str, Sequence[str]] = {}
        self._paths: dict[str, Path] = {}
        self._etcd_port, self._etcd_peer_port, self._port = free_ports(3)

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        audit: bool = False,
        outlives_us: bool = False,
        apiserver_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
        with_controllers: bool = True,
    ) -> Self:
        """Build what is missing, start everything, and return when the API server is ready and controllers run.

        Args:
            address: where the API server listens; etcd stays on loopback. Pods of a real node reach no loopback address.
            with_controllers: False leaves controller manager and scheduler out: objects stay as they were written.
            controller_flags: more flags of the controller manager, e.g. a shorter --node-monitor-grace-period.

        Raises:
            RuntimeError: a program did not become ready; the message carries the end of its log.
        """
        directory.mkdir(parents=True, exist_ok=True)
        plane = cls(directory, address, audit=audit, outlives_us=outlives_us)
        plane._flags = {"kube-apiserver": apiserver_flags, "kube-controller-manager": controller_flags}
        wanted = binaries.CONTROL_PLANE if with_controllers else ("etcd", "kube-apiserver", "kubectl")
        plane._paths = binaries.ensure(*wanted)
        try:
            plane._write_files()
            plane._start_etcd()
            plane.start_apiserver()
            if with_controllers:
                plane._start_controllers()
        except BaseException:
            plane.stop()
            raise
        return plane

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{self.address}:{self._port}"

    @property
    def certificate(self) -> Path:
        """The API server's certificate, which signs itself: the CA of every client."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def pids(self) -> dict[str, int]:
        """Process of each program, to read its CPU time and memory."""
        return {name: program.pid for name, program in self._programs.items() if program.is_running()}

    def rest(self, as_user: str = "") -> Rest:
        """A client with a connection of its own, the administrator's or another user's."""
        return Rest(self.address, self._port, self.certificate, self.token, as_user=as_user)

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None, deadline_seconds: float = 120) -> str:
        """What kubectl prints on stdout.

        Raises:
            KubectlError: it ended with another code than 0.
        """
        options = [f"--kubeconfig={kubeconfig or self.kubeconfig}", f"--cache-dir={self.directory / 'kubectl'}"]
        command = [str(self._paths["kubectl"]), *options, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=deadline_seconds, check=False)
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def service_account_kubeconfig(self, namespace: str, name: str, *, expiration_seconds: int = 7200) -> Path:
        """A kubeconfig with a fresh token of a service account that exists."""
        request = {"spec": {"expirationSeconds": expiration_seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        with self.rest() as rest:
            token = rest.create(path, request)["status"]["token"]
        return self.write_kubeconfig(self.directory / f"{namespace}-{name}.kubeconfig", token)

    def write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        """A kubeconfig of whoever has this token."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        written = path.with_name(f"{path.name}.new")
        written.write_text(json.dumps(config, indent=1), encoding="utf-8")
        written.chmod(0o600)
        written.replace(path)  # a running operator may be reading the old one
        return path

    def stop_apiserver(self) -> None:
        """Take the API server away, as a crash would. etcd keeps everything; controllers go on trying."""
        self._programs["kube-apiserver"].stop(grace_seconds=0)

    def start_apiserver(self) -> None:
        """Start the API server, at the same address as before, and wait until it is ready."""
        flags = self._apiserver_flags()
        program = self._start("kube-apiserver", [f"--{name}={value}" for name, value in flags.items()])
        program.wait_until(self.is_ready, _READY_SECONDS)

    def stop(self) -> None:
        """End every program, the API server's clients first. The directory stays."""
        for name in reversed(list(self._programs)):
            self._programs.pop(name).stop(grace_seconds=0)

    def is_ready(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            with self.rest() as rest:
                return rest.is_ready()
        except (FileNotFoundError, ssl.SSLError):  # the server has not written its certificate yet, or not all of it
            return False

    def _start(self, name: str, flags: Sequence[str]) -> Program:
        command = [self._paths[name], *flags, *self._flags.get(name, ())]
        program = Program(command, self.directory / f"{name}.log", environment=_environment(), outlives_us=self._outlives_us)
        self._programs[name] = program
        return program

    def _write_files(self) -> None:
        self.write_kubeconfig(self.kubeconfig, self.token)
        (self.directory / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n", encoding="utf-8")
        (self.directory / "audit.json").write_text(json.dumps(_AUDIT_POLICY), encoding="utf-8")
        command = ["openssl", "genrsa", "-out", str(self.directory / "service-account.key"), "2048"]
        subprocess.run(command, check=True, capture_output=True)

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer_port}"
        flags = {
            "data-dir": str(self.directory / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
        }
        program = self._start("etcd", [*(f"--{name}={value}" for name, value in flags.items()), "--unsafe-no-fsync"])
        program.wait_until(lambda: _accepts("127.0.0.1", self._etcd_port), _READY_SECONDS)

    def _apiserver_flags(self) -> Mapping[str, str]:
        key = str(self.directory / "service-account.key")
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": self.address,
            "advertise-address": self.address,
            "secure-port": str(self._port),
            "cert-dir": str(self.certificate.parent),
            "token-auth-file": str(self.directory / "tokens.csv"),
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": SERVICE_RANGE,
            "authorization-mode": "Node,RBAC",
            "allow-privileged": "true",
        }
        if self._audits:
            flags |= {"audit-policy-file": str(self.directory / "audit.json"), "audit-log-path": str(self.audit_log)}
        return flags

    def _start_controllers(self) -> None:
        manager = {
            "kubeconfig": str(self.kubeconfig),
            "use-service-account-credentials": "true",
            "service-account-private-key-file": str(self.directory / "service-account.key"),
            "root-ca-file": str(self.certificate),
            "leader-elect": "false",
            "secure-port": "0",
        }
        scheduler = {"kubeconfig": str(self.kubeconfig), "leader-elect": "false", "secure-port": "0"}
        self._start("kube-controller-manager", [f"--{name}={value}" for name, value in manager.items()])
        program = self._start("kube-scheduler", [f"--{name}={value}" for name, value in scheduler.items()])
        # Every pod needs the service account "default", which the controller manager makes: that it exists shows that controllers run.
        program.wait_until(self._has_default_account, _READY_SECONDS)

    def _has_default_account(self) -> bool:
        with self.rest() as rest:
            return rest.find("/api/v1/namespaces/default/serviceaccounts/default") is not None


def install_crds(plane: ControlPlane, *, with_limits: bool = False) -> None:
    """Install what `crds/` has, and wait until the API server serves it. `with_limits`: the optional policy on profiles' limits too."""
    files = [CRDS, *([CRDS / "optional"] if with_limits else [])]
    plane.kubectl("apply", "--server-side", *(f"--filename={path}" for path in files))
    eventually(lambda: all(map(_is_established, _definitions(plane))), 30, "the CRDs are established")


def _definitions(plane: ControlPlane) -> list[dict[str, Any]]:
    crds = ("crd/rlhfjobs.rlhf.dev", "crd/clusterrlhfprofiles.rlhf.dev")
    found: list[dict[str, Any]] = json.loads(plane.kubectl("get", *crds, "--output=json"))["items"]
    return found


def _is_established(definition: dict[str, Any]) -> bool:
    """Read here and not by kubectl: for a moment a new CRD has `conditions: null`, on which `wait` and `jsonpath` end with an error."""
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def remove_directory(directory: Path) -> None:
    """Remove what a control plane wrote."""
    shutil.rmtree(directory, ignore_errors=True)


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _environment() -> dict[str, Any]:
    """No proxy between the programs: they talk over addresses of this machine only."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
