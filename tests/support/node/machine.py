"""The node: started beside a control plane, ended without a trace. A control plane's kubeconfig in, a Ready node and its containerd out.

    network.up()                                                  # first: the API server listens on the cable's end
    with ControlPlane.start(directory, address=network.API_ADDRESS, apiserver_flags=APISERVER_FLAGS) as plane:
        with Node.start(directory / "node", plane.kubeconfig) as node: …
    network.down()

The node's state is its directory: another process ends it with `Node(directory).stop()`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import binaries
from tests.support.cluster.process import Program
from tests.support.eventually import eventually
from tests.support.node import configs, network
from tests.support.node.debian import ensure_packages

APISERVER_FLAGS = ("--kubelet-preferred-address-types=InternalIP",)
"""`kubectl logs` and `exec` find the node without a line in /etc/hosts."""

_READY_SECONDS = 90.0
_END_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")


class Node:
    """A node by its directory, running or not.

    Attributes:
        socket: containerd's, usable from outside the node.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self._pid_file = directory / "init.pid"
        self._program: Program | None = None  # of the process that started the node: it has to collect it at the end

    @classmethod
    def start(cls, directory: Path, kubeconfig: Path, *, outlives_us: bool = False) -> Self:
        """Install and build what is missing, start containerd first and the rest when it answers. The cable must lie (`network.up`).

        Raises:
            RuntimeError: something of the node ended; the message carries the end of its log.
        """
        ensure_packages()
        node = cls(directory)
        node._write_files(kubeconfig, binaries.ensure(*binaries.NODE))
        make_cgroups()
        namespaces = ["--mount", "--pid", "--fork", "--kill-child=SIGTERM"]
        command = ["nsenter", f"--net={network.NAMESPACE_PATH}", "unshare", *namespaces, sys.executable, _file("init.py"), node._plan_file]
        try:
            node._program = Program(command, directory / "logs" / "init.log", outlives_us=outlives_us)
            node._program.wait_until(lambda: node._pid_file.exists() and node.socket.exists(), _READY_SECONDS)
        except BaseException:
            node.stop()
            raise
        return node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def wait_until_ready(self, kubectl: Callable[..., str]) -> None:
        """Return when pods can be placed here."""
        eventually(lambda: _succeeds(kubectl, "get", "node", configs.NODE_NAME), _READY_SECONDS, "the node's registration")
        kubectl("wait", "--for=condition=Ready", f"node/{configs.NODE_NAME}", f"--timeout={_READY_SECONDS:g}s")

    def is_running(self) -> bool:
        """Whether its process 1 is there."""
        return self._pid() is not None

    def stop(self) -> None:
        """End every pod and program, and remove the cgroups. The directory stays, and so does the cable."""
        pid = self._pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            try:
                eventually(lambda: not _exists(pid), _END_SECONDS, "the end of the node")
            except AssertionError:
                os.kill(pid, signal.SIGKILL)  # and with process 1 goes everything in its namespace
                eventually(lambda: not _exists(pid), _END_SECONDS, "the end of the killed node")
        if self._program is not None:
            self._program.stop()  # it ended with process 1; this collects what is left of it
        self._pid_file.unlink(missing_ok=True)
        remove_cgroups()

    def run(self, *command: str) -> None:
        """Run a command among the node's mounts.

        Raises:
            CalledProcessError: it failed.
        """
        subprocess.run(["nsenter", f"--target={self._pid()}", "--mount", "--pid", *command], check=True)

    def seen(self, path: Path) -> Path:
        """A path as the node's mounts show it, usable from outside."""
        return Path(f"/proc/{self._pid()}/root{path}")

    def log(self, program: str, num_characters: int = 4000) -> str:
        """The end of a program's log."""
        file = self.directory / "logs" / f"{program}.log"
        return file.read_text(encoding="utf-8", errors="replace")[-num_characters:] if file.exists() else ""

    def _pid(self) -> int | None:
        """Process 1 of the node as this machine counts it."""
        try:
            pid = int(self._pid_file.read_text(encoding="utf-8"))
            return pid if str(self._plan_file) in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") else None
        except (OSError, ValueError):
            return None

    @property
    def _plan_file(self) -> Path:
        return self.directory / "plan.json"

    def _write_files(self, kubeconfig: Path, programs: dict[str, Path]) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("cni", "cni-state", "kubelet", "logs", "pods", "plugins", "var-lib", "var-log"):
            (self.directory / name).mkdir(parents=True)
        images = images_directory()
        files = {
            "containerd.toml": configs.containerd(images, self.socket, self.directory / "cni"),
            "cni/pods.conflist": configs.cni(self.directory / "cni-state"),
            "kubelet.json": configs.kubelet(self.directory, self.socket),
            "kube-proxy.json": configs.kube_proxy(kubeconfig),
            "Corefile": configs.corefile(kubeconfig),
            "resolv.conf": f"nameserver {network.NODE_ADDRESS}\n",
            "plan.json": json.dumps(self._plan(kubeconfig, programs), indent=1),
        }
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")

    def _plan(self, kubeconfig: Path, programs: dict[str, Path]) -> dict[str, object]:
        kubelet = [f"--kubeconfig={kubeconfig}", f"--config={self.directory / 'kubelet.json'}", f"--root-dir={self.directory / 'kubelet'}"]
        place = [f"--hostname-override={configs.NODE_NAME}", f"--node-ip={network.NODE_ADDRESS}"]
        directories = [str(directory) for directory in dict.fromkeys(path.parent for path in programs.values())]
        return {
            "pid_file": str(self._pid_file),
            "logs": str(self.directory / "logs"),
            "path": ":".join([*directories, os.environ["PATH"], "/usr/sbin", "/sbin"]),
            "socket": str(self.socket),
            "binds": {"/var/lib": str(self.directory / "var-lib"), "/var/log": str(self.directory / "var-log")},
            "ctr": [str(programs["ctr"]), "--address", str(self.socket), "--namespace", "k8s.io"],
            "programs": {
                "containerd": [str(programs["containerd"]), "--config", str(self.directory / "containerd.toml")],
                "coredns": [str(programs["coredns"]), "-conf", str(self.directory / "Corefile")],
                "kube-proxy": [str(programs["kube-proxy"]), f"--config={self.directory / 'kube-proxy.json'}"],
                "kubelet": [str(programs["kubelet"]), *kubelet, *place],
            },
        }


def images_directory() -> Path:
    """containerd's root. It stays: a trainer's image has gigabytes, and its layers change only with the lock file."""
    return binaries.cache_directory() / "containerd"


def make_cgroups() -> None:
    """The parent of all pods' cgroups, in every hierarchy; the kubelet wants it to be there."""
    for hierarchy in _hierarchies():
        directory = hierarchy / configs.CGROUP.strip("/")
        directory.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / name).exists():
                (directory / name).write_text((hierarchy / name).read_text(encoding="utf-8"), encoding="utf-8")


def remove_cgroups() -> None:
    """Take the node's cgroups away, the innermost first."""
    for hierarchy in _hierarchies():
        top = hierarchy / configs.CGROUP.strip("/")
        below = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: len(path.parts), reverse=True)
        for directory in [*below, top]:
            if directory.exists():
                eventually(lambda directory=directory: _is_removed(directory), _END_SECONDS, f"the removal of {directory}")


def _is_removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process of it has not quite ended
        return False
    return True


def _hierarchies() -> list[Path]:
    """One directory for each hierarchy of cgroup v1, or the only one of v2."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _succeeds(kubectl: Callable[..., str], *arguments: str) -> bool:
    try:
        kubectl(*arguments)
    except Exception:
        return False
    return True


def _file(name: str) -> Path:
    return Path(__file__).with_name(name)
