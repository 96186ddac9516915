"""The cable between this machine and its node: a network namespace for the node, and a pair of devices that joins the two.

The API server listens on this machine's end. iptables rules, bridges and pod devices live inside the namespace and go with it.
"""

import shutil
import subprocess

NAMESPACE = "rlhf-node"
NAMESPACE_PATH = f"/run/netns/{NAMESPACE}"
API_ADDRESS = "10.88.0.1"
NODE_ADDRESS = "10.88.0.2"
POD_RANGE = "10.244.0.0/24"
_HOST_DEVICE, _NODE_DEVICE = "rlhf-node", "eth0"


def up() -> None:
    """Lay the cable; one that is left from a killed run is taken away first.

    Raises:
        RuntimeError: `ip` refused; the message says what.
    """
    down()
    _ip("netns", "add", NAMESPACE)
    _ip("link", "add", _HOST_DEVICE, "type", "veth", "peer", "name", _NODE_DEVICE, "netns", NAMESPACE)
    _ip("address", "add", f"{API_ADDRESS}/24", "dev", _HOST_DEVICE)
    _ip("link", "set", _HOST_DEVICE, "up")
    _ip("-n", NAMESPACE, "link", "set", "lo", "up")
    _ip("-n", NAMESPACE, "address", "add", f"{NODE_ADDRESS}/24", "dev", _NODE_DEVICE)
    _ip("-n", NAMESPACE, "link", "set", _NODE_DEVICE, "up")
    _ip("-n", NAMESPACE, "route", "add", "default", "via", API_ADDRESS)
    _ip("route", "add", POD_RANGE, "via", NODE_ADDRESS)  # an operator outside the cluster reads the progress of pods


def down() -> None:
    """Take the cable away. Nothing is left; nothing there is fine."""
    if shutil.which("ip") is None:
        return
    # Deleting the namespace deletes the other end, but not before the kernel has let go of it, which may take a second.
    subprocess.run(["ip", "link", "delete", _HOST_DEVICE], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", NAMESPACE], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
