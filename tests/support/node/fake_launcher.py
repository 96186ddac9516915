"""`rlhf-launch` of the fake trainer image: a real container that does what a table on the volume says, without torch, so in a second.

The table is /workspace/actions.json, or FAKE_ACTIONS in the profile's environment; it has actions by `<stage>/r<attempt>/<index>`,
`<stage>/r<attempt>` or `<stage>`. Without one a pod succeeds at once.
An action: {"until": "a file on the volume that must appear first", "exit": 1, "eat": true (all memory)}.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_WORKSPACE = Path("/workspace")
_OUTCOMES = {0: "Succeeded", 64: "ConfigInvalid", 65: "DataInvalid", 74: "Storage", 75: "Preempted"}
_NAP_SECONDS = 0.1
_BITE_BYTES = 64 << 20


def main() -> int:
    """Read run.json and the table, act, leave a termination message."""
    run = json.loads(Path("/etc/rlhf/run.json").read_bytes())
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_end(75, run)))
    action = _action(run)
    print(json.dumps({"stage": run["stage"], "attempt": run["attempt"], "action": action}), flush=True)
    while "until" in action and not (_WORKSPACE / action["until"]).exists():
        time.sleep(_NAP_SECONDS)
    eaten = []
    while action.get("eat"):
        eaten.append(b"x" * _BITE_BYTES)
    return _end(action.get("exit", 0), run)


def _action(run: dict[str, Any]) -> dict[str, Any]:
    file = _WORKSPACE / "actions.json"
    table = file.read_text(encoding="utf-8") if file.exists() else os.environ.get("FAKE_ACTIONS", "{}")
    actions: dict[str, dict[str, Any]] = json.loads(table)
    stage, attempt, index = run["stage"]["name"], run["attempt"], os.environ.get("PET_NODE_RANK", "0")
    keys = (f"{stage}/r{attempt}/{index}", f"{stage}/r{attempt}", stage)
    return next((actions[key] for key in keys if key in actions), {})


def _end(code: int, run: dict[str, Any]) -> int:
    digest = "sha256:" + hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    words = "" if code == 0 else f"told to end with {code}"
    message: dict[str, Any] = {"outcome": _OUTCOMES.get(code, "AppError"), "exitCode": code, "message": words}
    message["outputDigest"] = None if code else digest
    Path("/dev/termination-log").write_text(json.dumps(message), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
