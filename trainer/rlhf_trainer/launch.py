"""`rlhf-launch`: the container's entry point, PID 1 of a pod. It starts this node's workers, and says how they ended.

run.json is checked against its sha256; one worker becomes a plain child, several meet through torch's elastic agent. SIGTERM is forwarded,
silence is ended, the first failure by time gives the exit code, and the termination message is written in every case.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from rlhf_api.run_config import RunConfig
from rlhf_api.stages import StageType
from rlhf_trainer import failures, launch_ending, launch_single
from rlhf_trainer.errors import StageError
from rlhf_trainer.exchange import Exchange, LastWords
from rlhf_trainer.launch_options import Options, Place, parse, read_run
from rlhf_trainer.launch_watch import Watch
from rlhf_trainer.run import StopFlag

log = logging.getLogger(__name__)

_MEETS_THE_WORLD = (StageType.PREPARE, StageType.PUBLISH)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this node's part of the attempt. Returns the pod's exit code."""
    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [launch] %(levelname)s %(message)s", stream=sys.stderr)
    options = parse(arguments)
    ending = _run_safely(options, stop)
    if ending.exit_code:
        log.error("exit code %d: %s", ending.exit_code, ending.message)
    launch_ending.write_message(options.termination_log, launch_ending.message_of(ending))
    return ending.exit_code


def _run_safely(options: Options, stop: StopFlag) -> LastWords:
    try:
        return _run(options, stop)
    except StageError as error:
        return launch_ending.of_error(error)
    except Exception as error:  # the store loses a peer in torch's words, for one
        log.exception("the launcher failed")
        return launch_ending.of_error(failures.as_stage_error(error))


def _run(options: Options, stop: StopFlag) -> LastWords:
    config, _ = read_run(options)
    place = Place.of(config)
    _set_environment(config, place)
    oom_kills = launch_ending.count_oom_kills()
    with Exchange.create(place.num_local) as exchange:
        watch = Watch(exchange, place.num_local, config.deadlines, stop)
        try:
            codes = _run_workers(config, replace(options, exchange=exchange.directory), place, watch, stop)
        finally:
            watch.close()
        if watch.stall is not None:
            return launch_ending.of_stall(watch.stall, place)
        oom_kills = launch_ending.count_oom_kills() - oom_kills
        return launch_ending.of_workers(codes, exchange, place, was_asked_to_stop=stop.is_set, oom_kills=oom_kills)


def _run_workers(config: RunConfig, options: Options, place: Place, watch: Watch, stop: StopFlag) -> dict[int, int]:
    if place.is_single:
        return launch_single.run(options, watch)
    from rlhf_trainer import launch_gang  # imports torch: seconds that one worker does not wait for

    return launch_gang.run(config, options, place, watch, stop)


def _set_environment(config: RunConfig, place: Place) -> None:
    """What workers inherit: no network for models and data (rule S3), and as many threads as there are cores for them (L8)."""
    if config.stage.type not in _MEETS_THE_WORLD:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // place.num_local)))
    # Threads wait awake for microseconds, then sleep. Never awake: half the speed on idle cores; long awake (libgomp's default): steps
    # 5 to 8 times slower where others use the cores too (docs/lab-notes.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if place.num_nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo looks the host name up, which a laptop may not resolve


if __name__ == "__main__":
    sys.exit(main())
