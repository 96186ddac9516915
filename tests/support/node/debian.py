"""What the node takes from Debian, installed when it is missing: runc, CNI plugins, iptables, and the tools that build images."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CNI_PLUGINS = Path("/usr/lib/cni")
_PACKAGE_OF: Mapping[str, str] = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}


def ensure_packages() -> None:
    """Every program of the table is on PATH afterwards.

    Raises:
        RuntimeError: this is no root shell on a Debian, or apt-get failed; the message carries the end of its output.
    """
    if os.geteuid() != 0:
        raise RuntimeError("a node needs root: namespaces, mounts and network devices")
    packages = {package for program, package in _PACKAGE_OF.items() if shutil.which(program) is None}
    if not (CNI_PLUGINS / "bridge").exists():
        packages.add("containernetworking-plugins")
    if packages:
        _install(sorted(packages))


def _install(packages: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"missing {', '.join(packages)}, and there is no apt-get to install them with")
    print(f"installing {', '.join(packages)} from Debian", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    for command in (["apt-get", "update", "-q"], [*install, *packages]):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
