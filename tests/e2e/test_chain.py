"""The real trainer in real pods, as gangs of two: one job goes through everything that may happen to it, and its artifact answers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.cluster import ControlPlane
from tests.support.jobs import NF4, PPO, REWARD, SFT
from tests.support.node.live import NAMESPACE, STEP_SECONDS, LiveJob

NewJob = Callable[[str], LiveJob]
LONG_SECONDS = 420.0
"""Two pods import torch on two cores, then train; a deadline for what hangs."""

ONE_POD = {"topology": {"gpusPerNode": 0}}
GANG = {"nodes": 2, "gpusPerNode": 0}


def checkpoints(attempt: Path) -> list[Path]:
    """Complete checkpoints of an attempt, oldest first."""
    found = [path.parent for path in attempt.glob("checkpoints/*/manifest.json")]
    return sorted(found, key=lambda path: int(path.name))


def corrupt(checkpoint: Path) -> None:
    """One byte of the largest file becomes another."""
    file = max((path for path in checkpoint.rglob("*.safetensors")), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    file.write_bytes(content)


def steps_saved(job: LiveJob, stage: str) -> list[list[int]]:
    """The steps of the checkpoints that each attempt of a stage left."""
    return [[int(checkpoint.name) for checkpoint in checkpoints(attempt)] for attempt in job.attempts(stage)]


def workers_of(pod_uid: str) -> list[int]:
    """Process ids of the ranks in a pod, found by the cgroup that carries the pod's uid."""

    def is_worker(entry: Path) -> bool:
        try:
            group, command = (entry / "cgroup").read_text(), (entry / "cmdline").read_text()
        except OSError:
            return False
        return f"pod{pod_uid}" in group and "rlhf_trainer.worker" in command

    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_worker(entry)]


def test_a_chain_survives_an_eviction_a_killed_rank_a_corrupt_checkpoint_and_a_suspension(plane: ControlPlane, new_job: NewJob) -> None:
    job = new_job("chain")
    publish = {"destination": {"uri": f"pvc://{job.name}/published"}, "model": {"stage": "nf4"}}
    stages = {"sft": SFT, "rm": REWARD, "ppo": PPO | {"steps": 12}, "nf4": NF4 | ONE_POD, "publish": publish}
    job.apply(stages, profile="default", topology=GANG, strategy="zero2", checkpoint={"everySteps": 2, "keep": 3})

    # SFT: an eviction, which the gang survives with at most two steps lost
    job.wait_for_running_pods("sft", 1, seconds=LONG_SECONDS)
    job.wait(lambda: job.attempts("sft") and checkpoints(job.attempts("sft")[0]), "a checkpoint of SFT", LONG_SECONDS)
    job.evict(job.pods("sft", 1)[1])
    # … then a rank that is killed while its newest checkpoint is corrupt: the one before is used
    job.wait(lambda: len(job.attempts("sft")) > 1 and len(checkpoints(job.attempts("sft")[1])) > 1, "two checkpoints of r2", LONG_SECONDS)
    for pid in workers_of(job.pods("sft", 2)[1]["metadata"]["uid"]):
        os.kill(pid, signal.SIGKILL)
    job.wait(lambda: job.attempt("sft", 2).get("outcome"), "the end of r2")
    newest = checkpoints(job.attempts("sft")[1])[-1]
    corrupt(newest)
    job.wait_for_phase("sft", "Succeeded", seconds=LONG_SECONDS)
    evicted, killed, last = (job.attempt("sft", number) for number in (1, 2, 3))
    assert (evicted["outcome"], evicted["budget"]) == ("Disrupted", "Disruption")
    assert (killed["budget"], killed["index"]) == ("Attempt", 1)
    assert last["outcome"] == "Succeeded"
    saved = steps_saved(job, "sft")
    assert min(saved[1]) > 2, "the second attempt began anew"
    assert 0 < last["resumedFrom"]["step"] < int(newest.name), "the corrupt checkpoint was used, or all were lost"
    assert "CheckpointSkipped" in (job.attempts("sft")[2] / "events.jsonl").read_text(encoding="utf-8")

    # PPO: suspended after a checkpoint, resumed from it
    job.wait_for_running_pods("ppo", 1, seconds=LONG_SECONDS)
    job.wait(lambda: job.attempts("ppo") and checkpoints(job.attempts("ppo")[0]), "a checkpoint of PPO", LONG_SECONDS)
    job.change(suspend=True)
    job.wait(lambda: job.is_true("Suspended") and not job.pods("ppo", 1), "the suspension", LONG_SECONDS)
    job.change(suspend=False)
    job.wait_for_phase("ppo", "Succeeded", seconds=LONG_SECONDS)
    stage = job.stage("ppo")
    assert (stage["attempt"], stage.get("countedFailures", 0), stage.get("disruptions", 0)) == (2, 0, 0)
    assert job.attempt("ppo", 1)["outcome"] == "Cancelled"
    assert job.attempt("ppo", 2)["resumedFrom"]["step"] >= min(steps_saved(job, "ppo")[0])

    # the artifact
    status = job.wait_for_completion(LONG_SECONDS)
    assert [artifact["uri"] for artifact in status["artifacts"]] == [f"pvc://{job.name}/published"]
    assert status["stagesSummary"] == "6/6"
    row = plane.kubectl("get", "rlhfjobs", "--namespace", NAMESPACE, job.name)
    assert all(word in row for word in ("6/6", "Succeeded")), row
    command = [
        sys.executable,
        "-c",
        "from rlhf_cli.main import run; run()",
        "chat",
        str(job.directory / "published"),
        "-m",
        "What is the capital of France?",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
