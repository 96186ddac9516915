"""Names of Kubernetes' programs in, paths of executables out: built from Go modules on first use, then cached by version.

Each row of the table is one small Go module under `go/` (go.mod and go.sum pin everything), because the projects need different versions of
the same libraries. The cache is $XDG_CACHE_HOME/rlhf-operator/bin/<row>-<version>/. Prebuilt downloads were rejected: a module proxy is
all that a closed network usually offers.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MODULES = Path(__file__).with_name("go")
_KUBERNETES = "v1.36.3"
_VERSION_VARIABLES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Programs of one project, built by one `go build`, so that they share one compilation of their libraries.

    Attributes:
        packages: Go package of each program. `go build` names an executable after the last element that is not a version.
        stamps: variables that the linker sets; without them Kubernetes reports v0.0.0.
    """

    name: str
    version: str
    packages: Mapping[str, str]
    stamps: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""


def _stamps_of_kubernetes() -> dict[str, str]:
    major, minor, _ = _KUBERNETES.removeprefix("v").split(".")
    values = {"gitVersion": _KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return {f"{module}.{variable}": value for module in _VERSION_VARIABLES for variable, value in values.items()}


_KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy")
_CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
ROWS = (
    Row("kubernetes", _KUBERNETES, {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES_PROGRAMS}, _stamps_of_kubernetes()),
    Row("etcd", "v3.6.8", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Row(
        "containerd",
        "v2.4.2",
        {name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in _CONTAINERD_PROGRAMS},
        {"github.com/containerd/containerd/v2/version.Version": "v2.4.2"},
        "no_btrfs no_devmapper no_zfs",
    ),
    Row("coredns", "v1.14.7", {"coredns": "github.com/coredns/coredns"}),
    Row("helm", "v4.3.1", {"helm": "helm.sh/helm/v4/cmd/helm"}, {"helm.sh/helm/v4/internal/version.version": "v4.3.1"}),
)
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kube-proxy", *_CONTAINERD_PROGRAMS, "coredns")


def ensure(*names: str) -> dict[str, Path]:
    """The executables of these programs. Missing ones are built first, which takes minutes on a cold machine and is said on stderr.

    Safe to call from several processes: one builds, the others wait for it.

    Raises:
        KeyError: no row has such a program.
        RuntimeError: Go is missing, or a build failed; the message carries the end of its output.
    """
    wanted = {name: _row_of(name) for name in names}
    for row in dict.fromkeys(wanted.values()):
        _ensure_row(row, [name for name in names if wanted[name] is row])
    return {name: _directory(row) / name for name, row in wanted.items()}


def cache_directory() -> Path:
    """Where built programs and the state of a running cluster live, outside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf-operator"


def _row_of(name: str) -> Row:
    for row in ROWS:
        if name in row.packages:
            return row
    raise KeyError(f"{name}: no program of that name; there are {', '.join(sorted(name for row in ROWS for name in row.packages))}")


def _directory(row: Row) -> Path:
    return cache_directory() / "bin" / f"{row.name}-{row.version}"


def _ensure_row(row: Row, names: Iterable[str]) -> None:
    directory = _directory(row)
    if all((directory / name).exists() for name in names):
        return
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            _build(row, missing, directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(row: Row, names: Iterable[str], directory: Path) -> None:
    """Into a directory beside the final one; each program is renamed into place when all of them are there."""
    print(f"building {', '.join(names)} {row.version} from Go modules (once; minutes on a cold machine)", file=sys.stderr, flush=True)
    linker = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in row.stamps.items())])
    with tempfile.TemporaryDirectory(dir=directory, prefix=".new-") as new:
        command = [_go(), "build", "-mod=readonly", "-trimpath", "-tags", row.tags, "-ldflags", linker, "-o", f"{new}/"]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        _run([*command, *(row.packages[name] for name in names)], _MODULES / row.name, environment)
        for name in names:
            (Path(new) / _built_name(row.packages[name])).rename(directory / name)


def _run(command: list[str], directory: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} in {directory.name} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _built_name(package: str) -> str:
    """`go build` names an executable like this: go.etcd.io/etcd/server/v3 becomes `server`."""
    *before, last = package.split("/")
    return before[-1] if last[0] == "v" and last[1:].isdigit() else last


def _go() -> str:
    found = shutil.which("go")
    if found is None:
        raise RuntimeError("go is not on PATH: install Go 1.26 or newer to build the test cluster's programs")
    return found
