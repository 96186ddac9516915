"""The operator process, put together: options in; it leads, watches and works until it is told to stop or must not write any more.

Standing by it keeps no watches. Kopf runs in the same loop and only fills the queue; everything that may write runs beside it in one task
group, so either ending ends both.
"""

import asyncio
import logging
import random
import signal
import socket
import uuid
from datetime import UTC, datetime

import kopf

from rlhf_api import names
from rlhf_operator.core.model import Settings
from rlhf_operator.shell.bucket import TokenBucket
from rlhf_operator.shell.cluster_api import ClusterApi
from rlhf_operator.shell.connection import Connection, own_namespace
from rlhf_operator.shell.crash import crash_here
from rlhf_operator.shell.handlers import Handlers, register
from rlhf_operator.shell.health import Health
from rlhf_operator.shell.job_metrics import count_first_job, count_status
from rlhf_operator.shell.known import Known
from rlhf_operator.shell.kube import ApiError, NotFound
from rlhf_operator.shell.leader import Elector, Guard, LeadershipLost
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.progress import ProgressPoller
from rlhf_operator.shell.reconciler import Reconciler
from rlhf_operator.shell.recorder import EventRecorder
from rlhf_operator.shell.settings import Options, configure_kopf
from rlhf_operator.shell.slots import Slots
from rlhf_operator.shell.workers import Workers
from rlhf_operator.shell.workqueue import WorkQueue

_LOG = logging.getLogger(__name__)
STOPPED, LOST = 0, 1
START_AGAIN_SECONDS = 2.0
LEASE_REQUESTS_PER_SECOND = 10.0
"""It needs two in five seconds."""


class OperatorProcess:
    """One run of the operator."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._connection = Connection(options.kubeconfig, options.context)
        self._metrics = Metrics()
        self._known = Known()
        self._health = Health(self._metrics_text)
        self._guard = Guard()
        self._stop = asyncio.Event()
        self.port = 0
        """Of health and metrics, once they are served."""

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT: 0. Leadership lost: 1.

        Raises:
            NoConnection: nothing says where the API server is.
        """
        self._handle_signals()
        await self._connection.reload()
        bucket = TokenBucket(self._options.requests_per_second, self._options.request_burst)
        api = ClusterApi(self._connection, bucket, self._metrics, self._guard.check)
        # For the Lease, which guards itself. Waiting behind the jobs' requests, or pausing with them, would cost the leadership.
        unguarded = ClusterApi(self._connection, TokenBucket(LEASE_REQUESTS_PER_SECOND, LEASE_REQUESTS_PER_SECOND), self._metrics)
        runner = await self._health.serve(self._options.port)
        self.port = runner.addresses[0][1]
        beat = asyncio.create_task(self._health.beat(), name="heartbeat")
        try:
            return await self._until_stopped(api, unguarded)
        finally:
            beat.cancel()
            await runner.cleanup()
            await api.close()
            await unguarded.close()

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _until_stopped(self, api: ClusterApi, unguarded: ClusterApi) -> int:
        work = asyncio.create_task(self._lead(api, unguarded), name="lead")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            _LOG.info("stopping")
            work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            return STOPPED
        except BaseExceptionGroup as group:
            lost, others = group.split(LeadershipLost)
            if others is not None:
                raise
            _LOG.error("leadership lost: %s", lost)
            return LOST
        return STOPPED

    async def _lead(self, api: ClusterApi, unguarded: ClusterApi) -> None:
        if not self._options.leader_election:
            await self._operate(api, None)
            return
        namespace = own_namespace(self._options.lease_namespace)
        identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        elector = Elector(unguarded, self._guard, namespace=namespace, identity=identity, name=self._options.lease_name)
        self._health.is_ready = True  # standing by is all that a standby has to do
        await elector.acquire()
        self._health.is_ready = False
        try:
            await self._operate(api, elector)
        finally:
            self._health.is_ready = False
            self._metrics.leader.set(0)
            if self._guard.is_valid:
                await elector.release()

    async def _operate(self, api: ClusterApi, elector: Elector | None) -> None:
        """Everything that may write, and the watches, in one group: either ending ends all."""
        self._metrics.leader.set(1)
        queue, slots = WorkQueue(max_low=max(1, self._options.num_workers // 2)), Slots()
        self._metrics.follow(queue)
        recorder = EventRecorder(api, self._metrics)
        reconciler = self._reconciler(api, recorder)
        workers = Workers(queue, reconciler, api, self._known, slots, self._metrics)
        poller = ProgressPoller(reconciler, queue, recorder, self._metrics)
        async with asyncio.TaskGroup() as group:
            if elector is not None:
                group.create_task(elector.renew(), name="lease")
            await self._wait_for_api(api)
            group.create_task(recorder.run(), name="events")
            group.create_task(poller.run(), name="progress")
            group.create_task(workers.run(self._options.num_workers), name="workers")
            group.create_task(self._watch(Handlers(queue, self._known, slots)), name="watches")

    async def _watch(self, handlers: Handlers) -> None:
        """Kopf, which fills the queue. It ends only with the process."""
        settings, ready = kopf.OperatorSettings(), asyncio.Event()
        configure_kopf(settings)
        group = asyncio.create_task(self._when_watching(ready), name="ready")
        try:
            await kopf.operator(
                registry=register(handlers, self._connection),
                settings=settings,
                clusterwide=not self._options.namespaces,
                namespaces=self._options.namespaces,
                ready_flag=ready,
            )
        finally:
            group.cancel()
        if not self._stop.is_set():
            raise RuntimeError("the watches ended by themselves")

    async def _when_watching(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._handle_signals()  # kopf took them; our way to stop cancels it, and all the rest at the same time
        self._health.is_ready = True
        _LOG.info("watching %s", ", ".join(self._options.namespaces) or "all namespaces")

    async def _wait_for_api(self, api: ClusterApi) -> None:
        """Kopf would silently watch nothing without our definitions: say what is missing, and wait for it."""
        while True:
            try:
                await api.list(names.KIND_PROFILE, "", limit=1)
                for namespace in self._options.namespaces or ("",):
                    await api.list(names.KIND_JOB, namespace, limit=1)
                return
            except NotFound:
                _LOG.error("the API server does not know %s: kubectl apply -f crds/", names.KIND_JOB)
            except ApiError as error:
                _LOG.error("the API server does not serve the operator yet: %s", error.message)
            await asyncio.sleep(START_AGAIN_SECONDS)

    def _reconciler(self, api: ClusterApi, recorder: EventRecorder) -> Reconciler:
        namespace = own_namespace(self._options.lease_namespace)
        return Reconciler(
            api,
            clock=_utc_now,
            recorder=recorder,
            settings=Settings(cluster_domain=self._options.cluster_domain, operator_namespace=namespace),
            crash_here=crash_here,
            on_status=lambda observed, status: count_status(self._metrics, observed, status, _utc_now()),
            on_first_job=lambda observed: count_first_job(self._metrics, observed, _utc_now()),
            jitter=lambda: random.uniform(0.8, 1.2),
        )

    def _metrics_text(self) -> bytes:
        self._metrics.count_jobs(self._known.phases(), self._known.stalls())
        return self._metrics.text()


def _utc_now() -> datetime:
    return datetime.now(UTC)
