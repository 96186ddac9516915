"""The bench itself: nothing is left behind, whatever ends it, and it refuses what it cannot do in words."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import ControlPlane, binaries, state
from tests.support.eventually import eventually

PROGRAM = """
import sys, time
from pathlib import Path
from tests.support.cluster import ControlPlane
with ControlPlane.start(Path(sys.argv[1]), with_controllers=False):
    print("up", flush=True)
    time.sleep(600)
"""


def processes_of(directory: Path) -> list[str]:
    """Programs that name the directory on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(directory) in part for part in command[1:]) and int(entry.name) != os.getpid():
            found.append(Path(command[0]).name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_no_process_is_left_when_a_test_run_is_ended(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    # Runners start tests in the background, where a shell ignores SIGINT: a person's Ctrl-C must count here.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_heed_interrupts) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert {"etcd", "kube-apiserver"} <= set(processes_of(tmp_path))
        run.send_signal(number)
        run.wait(30)
    eventually(lambda: processes_of(tmp_path) == [], what="all programs are gone")


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(KeyError, match="docker: no program of that name; there are containerd"):
        binaries.ensure("docker")


def test_a_process_is_remembered_by_its_start_and_not_by_its_number_alone(tmp_path: Path) -> None:
    path = tmp_path / "programs.json"
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        state.write(path, {"sleep": sleeper.pid})
        assert state.living(path) == {"sleep": sleeper.pid}
        path.write_text(path.read_text(encoding="utf-8").replace('"started": ', '"started": 1'), encoding="utf-8")
        assert state.living(path) == {}  # another process has that number now
        assert state.end(path) == []
        sleeper.kill()
    assert state.living(tmp_path / "absent.json") == {}


def test_threads_may_share_a_client(plane: ControlPlane) -> None:
    """The kubelet's loop and a test that returns a lost node do. http.client alone mixes their requests and answers up."""
    paths = ["/api/v1/namespaces/default", "/api/v1/namespaces/kube-system"]
    with plane.rest() as rest, ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda number: rest.get(paths[number % 2])["metadata"]["name"], range(400)))
    assert names == ["default", "kube-system"] * 200
