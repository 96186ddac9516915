"""A pod that does what a table says: the command of local pods in tests that need real processes but no trainer.

    python tiny_pod.py TABLE --run-file … --termination-log … (the launcher's arguments)

TABLE is a JSON file of actions by `<stage>/r<attempt>` or `<stage>`, or "-": then run.json itself has the actions by completion index.
An action: {"exit": 0, "until": "a file that must appear first", "message": "termination message", "hang": true, "deaf": true, "child": true}.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

NAP_SECONDS = 0.01


def main() -> int:
    table, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    with open(options["--run-file"], encoding="utf-8") as file:
        run = json.load(file)
    action = _action(table, run)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if action.get("deaf") else lambda number, frame: sys.exit(75))
    if action.get("child"):  # like torch's workers: in a session of its own, so no process group holds it
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(
        "environment",
        json.dumps({key: value for key, value in os.environ.items() if key.startswith(("PET_", "RLHF_", "CUDA_"))}),
        flush=True,
    )
    print("arguments", json.dumps(options), flush=True)
    while action.get("hang") or ("until" in action and not os.path.exists(action["until"])):
        time.sleep(NAP_SECONDS)
    code: int = action.get("exit", 0)
    message = action.get("message", _report(run, code))
    with open(options["--termination-log"], "w", encoding="utf-8") as file:
        file.write(message)
    return code


def _action(table: str, run: dict[str, Any]) -> dict[str, Any]:
    if table == "-":
        return dict(run.get(os.environ.get("PET_NODE_RANK", "0"), {}))
    with open(table, encoding="utf-8") as file:
        actions = json.load(file)
    stage = run["stage"]["name"]
    return dict(actions.get(f"{stage}/r{run['attempt']}", actions.get(stage, {})))


def _report(run: dict[str, Any], code: int) -> str:
    digest = "sha256:" + hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    outcome = {0: "Succeeded", 65: "DataInvalid", 75: "Preempted"}.get(code, "AppError")
    words = "" if code == 0 else f"told to end with {code}"
    return json.dumps({"outcome": outcome, "exitCode": code, "message": words, "outputDigest": None if code else digest})


if __name__ == "__main__":
    sys.exit(main())
