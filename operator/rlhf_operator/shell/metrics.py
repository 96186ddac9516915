"""The operator's Prometheus metrics: every name once. Counts and times come in from the whole shell, text for `/metrics` goes out.

No label holds the name of a job, pod or model: their number has no bound. Such figures come from pod 0's own `/metrics`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rlhf_api.status import JobPhase
from rlhf_operator.shell.workqueue import Lane, WorkQueue

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400, 259200)


class Metrics:
    """One registry for one process."""

    def __init__(self) -> None:
        self.version = version("rlhf-operator")
        self.registry = CollectorRegistry()
        self.jobs = self._gauge("jobs", "Jobs by phase.", "phase")
        self.job_finished = self._counter("job_finished_total", "Jobs that ended.", "result", "reason")
        self.stage_duration = self._histogram("stage_duration_seconds", "First start of a stage to its end.", _LONG, "stage_type", "result")
        self.stage_gpu_seconds = self._counter("stage_gpu_seconds_total", "GPUs times running time of ended attempts.", "stage_type")
        self.attempts = self._counter("attempts_total", "Ended attempts.", "stage_type", "outcome")
        self.attempt_start = self._histogram("attempt_start_seconds", "Job created to all pods ready.", _LONG, "stage_type")
        self.attempt_restart = self._histogram("attempt_restart_seconds", "Attempt ended to the next Job.", _LONG)
        self.stalled_stages = self._gauge("stalled_stages", "Stages that wait for something, by reason.", "reason")
        self.job_create_latency = self._histogram("job_create_latency_seconds", "RLHFJob created to its first Job.", _SECONDS)
        self.reconcile_duration = self._histogram("reconcile_duration_seconds", "One round of one job.", _SECONDS)
        self.reconcile_errors = self._counter("reconcile_errors_total", "Rounds ended by a defect of the operator.", "kind")
        self.workqueue_depth = self._gauge("workqueue_depth", "Keys that wait.", "lane")
        self.workqueue_oldest_age = self._gauge("workqueue_oldest_age_seconds", "Waiting time of the oldest key.", "lane")
        self.workqueue_retries = self._counter("workqueue_retries_total", "Rounds repeated after an error.", "lane")
        self.api_requests = self._counter(
            "api_requests_total", "Requests to the API server; code 0: no answer.", "verb", "resource", "code"
        )
        self.api_request_seconds = self._histogram("api_request_seconds", "Time of a request.", _SECONDS, "verb", "resource")
        self.api_throttle_seconds = self._counter("api_throttle_seconds_total", "Time spent waiting for the own rate limit.")
        self.progress_polls = self._counter("progress_polls_total", "Questions to pod 0.", "result")
        self.events_dropped = self._counter("events_dropped_total", "Events that were not sent: too many, or refused.")
        self.leader = self._gauge("leader", "1 while this process leads.")
        self.build_info = self._gauge("build_info", "Always 1.", "version")
        self.build_info.labels(self.version).set(1)

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """A request to the API server has ended; code 0 when nothing answered."""
        self.api_requests.labels(verb, resource, str(code)).inc()
        self.api_request_seconds.labels(verb, resource).observe(seconds)

    def throttled(self, seconds: float) -> None:
        """The rate limit held a request back."""
        if seconds > 0.001:
            self.api_throttle_seconds.inc(seconds)

    def follow(self, queue: WorkQueue) -> None:
        """Let depth, age and retries of the queue be read at every scrape."""
        for lane in Lane:
            self.workqueue_depth.labels(lane).set_function(_reader(queue.depth, lane))
            self.workqueue_oldest_age.labels(lane).set_function(_reader(queue.oldest_age, lane))

    def count_jobs(self, phases: Mapping[str, int], stalls: Mapping[str, int]) -> None:
        """How many jobs are in each phase now, and how many stages wait for what."""
        for phase in JobPhase:
            self.jobs.labels(phase).set(phases.get(phase, 0))
        self.stalled_stages.clear()
        for reason, count in stalls.items():
            self.stalled_stages.labels(reason).set(count)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="rlhf", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="rlhf", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="rlhf", buckets=buckets, registry=self.registry)


def _reader(read: Callable[[Lane], float], lane: Lane) -> Callable[[], float]:
    return lambda: read(lane)
