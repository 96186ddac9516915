"""A trainer that trains nothing: takes `rlhf-launch`'s arguments, reads run.json and reports what the test asked for.

`FAKE_TRAINER` is a JSON object: stage → {"exitCode", "message"} for a stage that fails, or {"wait": true} for one that works until it is
asked to stop and then says that it saved a checkpoint, or with {"isDeaf": true} goes on and on. Stages that are not named succeed at once.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

OUTCOMES = {0: "Succeeded", 65: "DataInvalid", 69: "Unsupported", 74: "Storage", 75: "Preempted", 77: "GateFailed"}


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def main() -> int:
    parser = argparse.ArgumentParser()
    for option in ("--run-file", "--workspace", "--termination-log"):
        parser.add_argument(option, type=Path)
    options, _ = parser.parse_known_args()
    run = json.loads(options.run_file.read_text())
    stage = run["stage"]["name"]
    print(f"{stage} attempt {run['attempt']} resumes from {run['resumeFrom']}", flush=True)
    wish: dict[str, Any] = json.loads(os.environ.get("FAKE_TRAINER", "{}")).get(stage, {})
    code = int(wish.get("exitCode", 0))
    message: dict[str, Any] = {
        "version": 1,
        "message": wish.get("message", ""),
        "metrics": {"loss": 1.5},
        "outputDigest": digest(stage) if code == 0 else None,
    }
    if wish.get("wait") and run["attempt"] == 1:
        signal.sigwait({signal.SIGTERM})
        print("asked to stop", flush=True)
        if wish.get("isDeaf"):
            signal.pause()
        code = 75
        message |= {"outputDigest": None}
        checkpoint = options.workspace / Path(run["root"]).relative_to("/workspace") / run["directory"] / "checkpoints" / "7"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
    options.termination_log.write_text(json.dumps(message | {"outcome": OUTCOMES[code], "exitCode": code}))
    return code


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main())
