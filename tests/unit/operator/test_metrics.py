"""Metric names are an API: dashboards and alerts are built on them. Labels never hold a name of a job, pod or model."""

import os
from datetime import timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from rlhf_operator.shell.job_metrics import count_first_job, count_status
from rlhf_operator.shell.metrics import Metrics
from rlhf_operator.shell.workqueue import WorkQueue
from tests.support.rig import Rig, one_stage

GOLDEN = Path(__file__).parents[2] / "golden" / "operator" / "metrics.txt"


def names(metrics: Metrics) -> list[str]:
    """`name type {labels}` of every metric."""
    found = []
    for collector in metrics.registry._collector_to_names:
        metric = next(iter(collector.describe()))
        found.append(f"{metric.name} {metric.type} {{{','.join(collector._labelnames)}}}")
    return sorted(found)


def test_names_and_labels_stay_what_they_are() -> None:
    text = "\n".join(names(Metrics())) + "\n"
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def value(metrics: Metrics, sample: str, **labels: str) -> float:
    """A sample, 0 when there is none."""
    return metrics.registry.get_sample_value(f"rlhf_{sample}", labels) or 0.0


def test_a_scrape_is_prometheus_text() -> None:
    metrics = Metrics()
    metrics.follow(WorkQueue())
    metrics.requested("get", "Job", 200, 0.1)
    metrics.count_jobs({"Running": 3}, {"ImagePull": 2})
    families = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    assert {"rlhf_jobs", "rlhf_api_requests", "rlhf_workqueue_depth"} <= families
    assert value(metrics, "jobs", phase="Running") == 3
    assert value(metrics, "jobs", phase="Failed") == 0
    metrics.count_jobs({}, {})
    assert value(metrics, "stalled_stages", reason="ImagePull") == 0


class Counted(Rig):
    """A rig whose status writes are counted."""

    metrics: Metrics

    def new_reconciler(self):  # type: ignore[no-untyped-def]
        self.metrics = Metrics()
        reconciler = super().new_reconciler()
        reconciler._on_status = lambda observed, status: count_status(self.metrics, observed, status, self.now)
        reconciler._on_first_job = lambda observed: count_first_job(self.metrics, observed, self.now)
        return reconciler


def test_a_job_is_counted_from_its_first_attempt_to_its_end() -> None:
    rig = Counted(one_stage())
    rig.succeed("prepare", "sft")
    rig.settle()
    assert value(rig.metrics, "job_create_latency_seconds_count") == 1
    assert value(rig.metrics, "attempts_total", stage_type="SFT", outcome="Succeeded") == 1
    assert value(rig.metrics, "stage_duration_seconds_count", stage_type="SFT", result="Succeeded") == 1
    assert value(rig.metrics, "attempt_start_seconds_count", stage_type="SFT") == 1
    assert value(rig.metrics, "job_finished_total", result="Succeeded", reason="") == 1


def test_a_retry_is_counted_with_the_time_it_took() -> None:
    rig = Counted(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.end(rig.pods("sft")[0], 1)
    rig.settle()
    rig.wait(60)
    assert value(rig.metrics, "attempts_total", stage_type="SFT", outcome="AppError") == 1
    assert value(rig.metrics, "attempt_restart_seconds_count") == 1


def test_gpu_time_counts_all_gpus_of_the_stage() -> None:
    rig = Counted(one_stage())
    rig.succeed("prepare")
    rig.run("sft")
    rig.now += timedelta(seconds=30)
    rig.end(rig.pods("sft")[0], 1)
    rig.settle()
    assert value(rig.metrics, "stage_gpu_seconds_total", stage_type="SFT") == 0  # no GPU in this spec
