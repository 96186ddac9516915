"""The real operator as a process outside the cluster: a service account's rights in, a running `rlhf_operator run` out.

It gets the rights of operator.md section 8 and no others, so a request too many fails a test.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.cluster import rights
from tests.support.cluster.control_plane import ControlPlane, free_ports
from tests.support.cluster.process import Program

_READY_SECONDS = 60.0


class Operator:
    """One operator process. Use it as a context manager.

    Args:
        crash_point: it ends itself there (`RLHF_CRASH_POINT`).
        flags: further flags of `run`.
        profile: where cProfile leaves its figures when the operator has ended.
    """

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        *,
        namespaces: Sequence[str] = (),
        crash_point: str = "",
        flags: Sequence[str] = (),
        profile: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        rights.install(plane)
        kubeconfig = plane.service_account_kubeconfig(rights.NAMESPACE, rights.ACCOUNT)
        (self.port,) = free_ports(1)
        profiled = ["-m", "cProfile", "-o", str(profile)] if profile else []
        command = [
            sys.executable,
            *profiled,
            "-m",
            "rlhf_operator",
            "run",
            f"--kubeconfig={kubeconfig}",
            f"--lease-namespace={rights.NAMESPACE}",
        ]
        command += [f"--port={self.port}", *(f"--namespace={name}" for name in namespaces), *flags]
        environment = {**os.environ, **({"RLHF_CRASH_POINT": crash_point} if crash_point else {})}
        self.log = directory / f"operator-{self.port}.log"
        self.program = Program(command, self.log, environment=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait_until_ready(self) -> Self:
        """Wait for /readyz."""
        self.program.wait_until(lambda: self.answers("/readyz"), _READY_SECONDS)
        return self

    def wait_until_watching(self) -> Self:
        """Wait until it leads and sees every change. /readyz says yes to a standby too, which every operator is at first."""
        self.program.wait_until(lambda: '"watching ' in self.log.read_text(encoding="utf-8"), _READY_SECONDS)
        return self

    def answers(self, path: str) -> bool:
        """Whether a probe succeeds."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    def metrics(self) -> str:
        """/metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def lines(self) -> list[Mapping[str, Any]]:
        """Its log, one object a line."""
        text = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def stop(self, *, grace_seconds: float = 20.0) -> None:
        """SIGTERM, or SIGKILL with a grace of 0."""
        self.program.stop(grace_seconds=grace_seconds)
