"""Several workers: torch's elastic agent on every node, static rendezvous, no restarts (rules L1, L3, L6).

Two things of torch 2.11 are replaced, and checked at start so that a change of torch fails loudly:
- `SubprocessContext._close` is called without a timeout and kills workers after 30 s; here they get the pod's grace period when the
  platform asked to stop, and a short one when a peer failed. It is also where exit codes are read: a signalled agent reports none.
- The static rendezvous waits in one call that only says "timeout"; here nodes sign a list first, so that node 0 can name the missing.
"""

from __future__ import annotations

import inspect
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousParameters, RendezvousStoreInfo, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rlhf_api.outcome import ExitCode
from rlhf_api.run_config import RunConfig
from rlhf_trainer.errors import CommunicationError, InternalError, Preempted
from rlhf_trainer.launch_options import Options, Place
from rlhf_trainer.launch_single import WORKER
from rlhf_trainer.launch_watch import Watch
from rlhf_trainer.run import StopFlag

log = logging.getLogger(__name__)

_BACKEND = "rlhf-static"
_PEER_SECONDS = 10
"""What peers of a failed worker get to end by themselves: nothing of theirs is worth more."""
_CLOSE_PARAMETERS = ["self", "death_sig", "timeout"]


def run(config: RunConfig, options: Options, place: Place, watch: Watch, stop: StopFlag) -> dict[int, int]:
    """Run this node's workers to their end. Returns their codes by local rank; -s means signal s.

    Raises:
        CommunicationError: the gang did not meet within `deadlines.startupSeconds`.
        Preempted: asked to stop before it met.
    """
    codes: dict[int, int] = {}
    _adapt_closing(codes, stop, config.deadlines.shutdown_seconds)
    gathering = _Gathering(place, config.deadlines.startup_seconds, stop, watch.begin)
    rendezvous_handler_registry.register(_BACKEND, gathering.handler)
    launch = LaunchConfig(
        min_nodes=place.num_nodes,
        max_nodes=place.num_nodes,
        nproc_per_node=place.num_local,
        run_id=f"{config.job.uid}-{config.stage.name}-r{config.attempt}",
        role=config.stage.name,
        rdzv_backend=_BACKEND,
        rdzv_endpoint=f"{place.master_address}:{place.master_port}",
        rdzv_configs={"rank": place.node_rank, "timeout": config.deadlines.startup_seconds},
        max_restarts=0,
        monitor_interval=0.1,
        local_addr=place.master_address if place.node_rank == 0 else None,
        logs_specs=DefaultLogsSpecs(),
        signals_to_handle="SIGHUP",  # SIGTERM is ours: the agent would raise in the middle of anything
    )
    with suppress(ChildFailedError):  # the codes tell
        elastic_launch(launch, sys.executable)(*WORKER, *options.arguments())
    return codes or dict.fromkeys(range(place.num_local), 0)


def _adapt_closing(codes: dict[int, int], stop: StopFlag, grace_seconds: int) -> None:
    if list(inspect.signature(SubprocessContext._close).parameters) != _CLOSE_PARAMETERS:
        raise InternalError("torch changed SubprocessContext._close: the grace period of rule L3 cannot be kept", hint="pin torch 2.11")
    close = SubprocessContext._close

    def close_with_grace(context: SubprocessContext, death_sig: signal.Signals, timeout: int = 30) -> None:
        ended = {rank: handler.proc.poll() for rank, handler in context.subprocess_handlers.items()}
        is_stop = stop.is_set or ExitCode.PREEMPTED in ended.values()  # peers may have heard of it from another node
        close(context, death_sig, grace_seconds if is_stop else _PEER_SECONDS)
        if not codes:
            codes.update(_own_codes(ended, {rank: handler.proc.returncode for rank, handler in context.subprocess_handlers.items()}))

    SubprocessContext._close = close_with_grace  # type: ignore[assignment, method-assign]


def _own_codes(before: dict[int, int | None], after: dict[int, int]) -> dict[int, int]:
    """Codes that workers chose themselves. What the closing killed beside a failed worker says nothing about the cause."""
    has_failure = any(before.values())
    return {rank: code for rank, code in after.items() if code >= 0 or before[rank] is not None or not has_failure}


class _Gathering:
    """How the nodes find each other."""

    def __init__(self, place: Place, startup_seconds: int, stop: StopFlag, on_complete: Callable[[], None]) -> None:
        self._place, self._stop, self._on_complete = place, stop, on_complete
        self._deadline = time.monotonic() + startup_seconds
        self._startup_seconds = startup_seconds

    def handler(self, parameters: RendezvousParameters) -> _SignedRendezvous:
        place = self._place
        return _SignedRendezvous(self, place, parameters.run_id)

    def meet(self) -> TCPStore:
        """The store of node 0, once all nodes have signed it."""
        place = self._place
        if place.num_nodes == 1:
            # One node needs no agreed port: the system gives a free one, and two gangs on a laptop never collide.
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True)
        else:
            store = self._connect()
        store.set(f"arrived/{place.node_rank}", "1")
        self._wait_for_all(store)
        self._on_complete()
        return store

    def _connect(self) -> TCPStore:
        place = self._place
        while True:
            try:
                socket.getaddrinfo(place.master_address, place.master_port)  # a Service knows a pod only some time after its start
                return TCPStore(
                    place.master_address,
                    place.master_port,
                    is_master=place.node_rank == 0,
                    timeout=timedelta(seconds=5),
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            except (OSError, RuntimeError) as error:
                address = f"{place.master_address}:{place.master_port}"
                self._pause(f"node 0 cannot be reached at {address} (PET_MASTER_ADDR, PET_MASTER_PORT): {error}")

    def _wait_for_all(self, store: TCPStore) -> None:
        waiting = set(range(self._place.num_nodes))
        while waiting := {rank for rank in waiting if not store.check([f"arrived/{rank}"])}:
            missing = ",".join(str(rank) for rank in sorted(waiting))
            self._pause(f"missing node ranks {missing} of {self._place.num_nodes} after {self._startup_seconds} s")

    def _pause(self, problem: str) -> None:
        if self._stop.is_set:
            raise Preempted("stopped on request before the gang was complete")
        if time.monotonic() >= self._deadline:
            raise CommunicationError(problem, hint="look at the pods of these ranks: pending, failed, or blocked by a NetworkPolicy")
        time.sleep(0.2)


class _SignedRendezvous(StaticTCPRendezvous):
    """torch's static rendezvous, met by signature."""

    def __init__(self, gathering: _Gathering, place: Place, run_id: str) -> None:
        super().__init__(place.master_address, place.master_port, place.node_rank, place.num_nodes, run_id, 0)
        self._gathering = gathering
        self._is_local = place.num_nodes == 1

    def get_backend(self) -> str:
        return _BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        store: Any = self._gathering.meet()
        self._store = store
        address = "127.0.0.1" if self._is_local else self.master_addr
        bootstrap = RendezvousStoreInfo(address, store.port)
        return RendezvousInfo(PrefixStore(self.run_id, store), self.rank, self.world_size, bootstrap)
