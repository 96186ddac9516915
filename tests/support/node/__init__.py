"""A Kubernetes node in namespaces of its own: containerd, kubelet, kube-proxy and CoreDNS beside a control plane of `tests.support.cluster`.

`network` lays the cable, `machine` starts and ends the node, `init` is its process 1, `configs` what its programs read, `images` builds
and hands in container images, `volumes` makes PersistentVolumes, `debian` installs what Debian has. All of it needs root.
"""

from tests.support.node.machine import Node

__all__ = ["Node"]
