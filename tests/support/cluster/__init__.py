"""A real Kubernetes for the tests, on a machine without Docker: its binaries are built once from Go modules, then started as processes.

`binaries` builds, `control_plane` starts etcd, API server, controller manager and scheduler, `kubelet` plays the pods by a script,
`rest` talks to the API server. `python -m tests.support.cluster up | down` keeps one running to work with.
"""

from tests.support.cluster.control_plane import ControlPlane, install_crds

__all__ = ["ControlPlane", "install_crds"]
