"""The entry of each worker: run.json -> the stage's `run(run)` -> exit code and last words for the launcher.

Prepare and Publish never import torch. Every other stage starts from the same seed, with deterministic kernels where they cost nothing, and
in a process group when the gang has more than one worker. This module holds the process's one broad `except`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rlhf_api.names import PATH_CLAIMS
from rlhf_api.outcome import CheckpointRef
from rlhf_api.stages import StageType
from rlhf_trainer import failures
from rlhf_trainer.errors import Preempted, StorageError
from rlhf_trainer.exchange import Exchange, LastWords
from rlhf_trainer.launch_options import Options, parse, read_run
from rlhf_trainer.report.heartbeat import Heartbeat
from rlhf_trainer.run import Run, StageResult, StopFlag

log = logging.getLogger(__name__)

MODULES = {
    StageType.PREPARE: "prepare",
    StageType.SFT: "sft",
    StageType.REWARD_MODEL: "reward",
    StageType.PPO: "ppo",
    StageType.QUANTIZE: "quantize",
    StageType.PUBLISH: "publish",
}
_WITHOUT_TORCH = (StageType.PREPARE, StageType.PUBLISH)
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker of one attempt. Returns its exit code."""
    stop = StopFlag()
    signal.signal(signal.SIGTERM, stop.set)  # first of all: from here on a stop request is never lost
    _die_with_parent()
    options = parse(arguments)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    exchange = Exchange(options.exchange) if options.exchange else None
    run: Run | None = None
    try:
        run = build_run(options, exchange, local_rank, stop)
        words = _words_of(run, run_stage(run))
    except BaseException as error:
        words = _words_of_failure(run, error)
    if exchange is not None:
        exchange.write(local_rank, words)
    return words.exit_code


def build_run(options: Options, exchange: Exchange | None, local_rank: int, stop: StopFlag) -> Run:
    """This worker's view of the attempt; its directory and log exist afterwards.

    Raises:
        ConfigError: run.json is not usable.
        StorageError: the attempt's directory cannot be written.
    """
    config, digest = read_run(options)
    root = options.root_of(config)
    rank = int(os.environ.get("RANK", "0"))
    run = Run(
        config=config,
        digest=digest,
        root=root,
        directory=root / config.directory,
        secrets=options.secrets,
        claims=_claims(options),
        rank=rank,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        progress_port=config.progress_port if options.progress_port is None else options.progress_port,
        progress_host="0.0.0.0" if options.progress_port is None else "127.0.0.1",
        heartbeat=exchange.heartbeat(local_rank) if exchange else Heartbeat.unwatched(),
        stop=stop,
    )
    run.heartbeat.beat("loading", 0)
    if exchange is not None:
        # The file stays open for the life of the process: the handler writes to its descriptor.
        faulthandler.register(signal.SIGUSR1, file=exchange.stacks(local_rank).open("w"), all_threads=True)
    _start_log(run)
    return run


def run_stage(run: Run) -> StageResult:
    """Seeds, process group, and the stage to its end. Once a process.

    Raises:
        StageError: see errors.py; other exceptions become one in `failures.as_stage_error`.
    """
    stage_type = run.config.stage.type
    stage = importlib.import_module(f"rlhf_trainer.stages.{MODULES[stage_type]}")
    _check_stop(run)
    if stage_type not in _WITHOUT_TORCH:
        _set_up_torch(run)
    result: StageResult = stage.run(run)
    return result


def _check_stop(run: Run) -> None:
    if run.stop_requested():
        raise Preempted("stopped on request before the first step")


def _set_up_torch(run: Run) -> None:
    """Seeds, threads, determinism, process group."""
    import torch
    import torch.distributed as dist

    from rlhf_trainer.state.rng import seed_all

    is_cuda = run.config.gang.device == "cuda"
    if is_cuda:
        torch.cuda.set_device(run.local_rank)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.use_deterministic_algorithms(True, warn_only=True)  # costs nothing on a CPU; on GPUs some kernels would be slower
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # only hides bugs, and each cache would be filled twice
    if run.world_size > 1:
        # Longer than the watchdog: a hung peer is named by it, with stacks, not by a timeout.
        timeout = timedelta(seconds=run.config.deadlines.progress_seconds + 600)
        with _sigterm_ends(run):
            dist.init_process_group("nccl" if is_cuda else "gloo", timeout=timeout)
    seed_all(run.config.seed)


@contextmanager
def _sigterm_ends(run: Run) -> Iterator[None]:
    """While peers are waited for, SIGTERM ends the process: the wait is in C, where no handler of Python runs, and nothing is lost yet."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        _check_stop(run)
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _words_of(run: Run, result: StageResult) -> LastWords:
    latest = run.latest
    return LastWords(
        exit_code=0,
        message=f"{run.config.stage.name} finished at step {result.step}",
        rank=run.rank,
        step=result.step,
        checkpoint=_wire(result.checkpoint or latest.checkpoint),
        resumed_from=_wire(latest.resumed_from),
        output_digest=result.output_digest if run.is_first else None,
        metrics={**latest.metrics, **result.metrics},
    )


def _words_of_failure(run: Run | None, error: BaseException) -> LastWords:
    failure = failures.as_stage_error(error, run.config.plan if run else None)
    if isinstance(failure, Preempted):
        log.warning("%s", failure.message)
    else:
        log.error("exit code %d: %s", failure.exit_code, failure.message, exc_info=error)
    words = LastWords(exit_code=int(failure.exit_code), message=failure.message, hint=failure.hint)
    if run is None:
        return words
    latest = run.latest
    return LastWords(
        exit_code=words.exit_code,
        message=words.message,
        hint=words.hint,
        rank=run.rank,
        step=latest.step,
        checkpoint=_wire(latest.checkpoint),
        resumed_from=_wire(latest.resumed_from),
        metrics=latest.metrics,
    )


def _wire(ref: CheckpointRef | None) -> dict[str, Any] | None:
    return ref.to_wire() if ref else None


def _claims(options: Options) -> dict[str, Path]:
    mounted = Path(PATH_CLAIMS)
    found = {path.name: path for path in mounted.iterdir()} if mounted.is_dir() else {}
    return found | dict(options.claims)


def _start_log(run: Run) -> None:
    """Lines with the rank, to standard error and to `logs/rank-<k>.log`. Only rank 0 says more than warnings."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    try:
        (run.directory / "logs").mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(run.directory / "logs" / f"rank-{run.rank}.log", encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{run.directory}: the attempt's directory cannot be written: {error.strerror}") from error
    form = f"%(asctime)s [{run.rank}] %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO if run.is_first else logging.WARNING, format=form, handlers=handlers, force=True)
    logging.captureWarnings(True)


def _die_with_parent() -> None:
    """A worker must not outlive a launcher that was killed: nobody would stop it, and it would go on writing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(code: int) -> None:
    """End now: a destructor that hangs in a communicator must not turn a finished stage into a stalled one."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
