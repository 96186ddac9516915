"""What the node's programs read, as text: containerd, CNI, kubelet, kube-proxy and CoreDNS. Paths and addresses in, files' contents out.

Every line that is not usual stands where a machine without Docker, systemd or CAP_SYS_RESOURCE failed without it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.node.debian import CNI_PLUGINS
from tests.support.node.network import NODE_ADDRESS, POD_RANGE

NODE_NAME = "rlhf-node"
CLUSTER_DOMAIN = "cluster.local"
CGROUP = "/rlhf-node"
PAUSE_IMAGE = "localhost/rlhf-test/pause:1"


def containerd(root: Path, socket: Path, cni: Path) -> str:
    """containerd's configuration. `root` keeps the images from one run to the next."""
    return f"""\
version = 3
root = "{root}"
state = "/run/containerd"

[grpc]
address = "{socket}"

[ttrpc]
address = "{socket}.ttrpc"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
# Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj: every sandbox would fail.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{cni}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{shutil.which("runc")}"
SystemdCgroup = false
"""


def cni(state: Path) -> str:
    """The pods' network: a bridge inside the node's namespace."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(state),
    }
    bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    plugins: list[dict[str, Any]] = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}, indent=1)


def kubelet(directory: Path, socket: Path) -> str:
    """The kubelet's configuration."""
    never = dict.fromkeys(("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"), "0%")
    return _config(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        address=NODE_ADDRESS,
        authentication={"anonymous": {"enabled": True}, "webhook": {"enabled": False}},  # reachable from this machine only
        authorization={"mode": "AlwaysAllow"},
        cgroupDriver="cgroupfs",
        cgroupRoot=CGROUP,
        failCgroupV1=False,
        failSwapOn=False,
        cpuCFSQuota=False,  # two cores for everybody: a pod's limit would only leave them idle
        clusterDNS=[NODE_ADDRESS],
        clusterDomain=CLUSTER_DOMAIN,
        resolvConf=str(directory / "resolv.conf"),
        containerRuntimeEndpoint=f"unix://{socket}",
        evictionHard=never,  # a full disk of the machine is not what the tests are about
        imageGCHighThresholdPercent=100,
        imageGCLowThresholdPercent=99,
        enforceNodeAllocatable=[],
        podLogsDir=str(directory / "pods"),
        volumePluginDir=str(directory / "plugins"),
        maxPods=110,
    )


def kube_proxy(kubeconfig: Path) -> str:
    """kube-proxy's configuration. It leaves the machine's conntrack table alone, which is not the namespace's to change."""
    return _config(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        mode="iptables",
        clusterCIDR=POD_RANGE,
        clientConnection={"kubeconfig": str(kubeconfig)},
        hostnameOverride=NODE_NAME,
        conntrack={"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    )


def corefile(kubeconfig: Path) -> str:
    """CoreDNS answers for the cluster only: pods of the tests have no other names to look up."""
    return f"""\
.:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
    cache 1
}}
"""


def _config(version: str, kind: str, **values: object) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, **values}, indent=1)
