"""A worker whose stage is a few lines of this file, chosen by FAKE_STAGE: the launcher's tests need endings, not training.

Everything but the stage is real: arguments, run.json, heartbeat, process group, exit code, last words.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import types
from pathlib import Path

from rlhf_trainer import errors, worker
from rlhf_trainer.run import Run, StageResult


def run(stage: Run) -> StageResult:
    name, _, argument = os.environ["FAKE_STAGE"].partition(":")
    return STAGES[name](stage, argument)


def succeed(stage: Run, _: str) -> StageResult:
    stage.heartbeat.beat("training", 3)
    return StageResult(output_digest="sha256:" + "0" * 64, step=3, metrics={"loss": 0.5})


def raise_error(stage: Run, name: str) -> StageResult:
    raise getattr(errors, name)(f"{name} on purpose", hint="a hint")


def raise_builtin(stage: Run, name: str) -> StageResult:
    if name == "ENOSPC":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise {"ValueError": ValueError, "MemoryError": MemoryError}[name]("on purpose")


def exit_at_once(stage: Run, code: str) -> StageResult:
    os._exit(int(code))


def kill_itself(stage: Run, name: str) -> StageResult:
    os.kill(os.getpid(), getattr(signal, name))
    raise AssertionError("unreachable")


def hang(stage: Run, rank: str) -> StageResult:
    if str(stage.rank) == rank:
        threading.Event().wait()
    return wait_for_stop(stage, "0")


def fail_on_rank(stage: Run, rank: str) -> StageResult:
    """One worker fails by itself, the others lose their peer a moment later."""
    if str(stage.rank) == rank:
        raise errors.Diverged(f"rank {rank} saw NaN")
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.zeros(1))
    raise AssertionError("the peer is gone")


def wait_for_stop(stage: Run, save_seconds: str) -> StageResult:
    """Trains for ever; on SIGTERM the first worker saves for some seconds. Each leaves a file and ends Preempted."""
    marker = stage.directory / f"running-{stage.rank}"
    marker.touch()
    pause = threading.Event()
    while not stage.stop_requested():
        pause.wait(0.02)
        stage.heartbeat.beat("training", 7)
    pause.wait(float(save_seconds) if stage.is_first else 0)
    (stage.directory / f"saved-{stage.rank}").touch()
    raise errors.Preempted("saved")


def meet(stage: Run, _: str) -> StageResult:
    import torch
    import torch.distributed as dist

    total = torch.ones(1)
    dist.all_reduce(total)
    return StageResult(output_digest="sha256:" + "0" * 64, step=int(total.item()))


def environment(stage: Run, _: str) -> StageResult:
    names = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")
    Path(stage.directory / "environment").write_text("\n".join(f"{name}={os.environ.get(name)}" for name in names))
    return succeed(stage, "")


STAGES = {
    "succeed": succeed, "error": raise_error, "builtin": raise_builtin, "exit": exit_at_once, "signal": kill_itself, "hang": hang,
    "fail": fail_on_rank, "stop": wait_for_stop, "meet": meet, "environment": environment,
}  # fmt: skip


def tell_when_it_meets() -> None:
    """Leave a file once the main thread waits for its peers."""
    main = threading.main_thread().ident
    while True:
        frame: types.FrameType | None = sys._current_frames().get(main or 0)
        while frame is not None:
            if frame.f_code.co_name == "init_process_group":
                Path(sys.argv[sys.argv.index("--workspace") + 1], "meeting").touch()
                return
            frame = frame.f_back
        threading.Event().wait(0.02)


if __name__ == "__main__":
    if os.environ["FAKE_STAGE"] == "alone":  # the second worker never meets the first
        if os.environ["RANK"] == "1":
            threading.Event().wait()
        threading.Thread(target=tell_when_it_meets, daemon=True).start()
    for name in worker.MODULES.values():
        module = types.ModuleType(f"rlhf_trainer.stages.{name}")
        module.run = run  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
    worker._leave(worker.main())
