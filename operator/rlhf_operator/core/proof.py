"""Is the output of a finished Job proven? A Job that is Complete proves nothing: the report of pod 0 does.

The Job and its pods come in; an `OutputStatus` goes out, or the ending of an attempt whose output is worth nothing.
"""

from dataclasses import dataclass

from rlhf_api import names
from rlhf_api.outcome import MAX_INTEGER, Outcome, TerminationMessage
from rlhf_api.status import OutputStatus
from rlhf_operator.core import failure
from rlhf_operator.core.failure import Ending
from rlhf_operator.core.live import LiveJob, LivePod

OUTPUT_BYTES = "output_bytes"
"""Metric of the report that says how large the output is."""


@dataclass(frozen=True, slots=True)
class Proven:
    """An output with the digest of its manifest, and the report that carries it."""

    output: OutputStatus
    report: TerminationMessage


def judge(job: LiveJob, pods: tuple[LivePod, ...]) -> Proven | Ending | None:
    """The output of a Complete Job, or why there is none; None while pod 0's end is not visible yet."""
    first = next((pod for pod in pods if pod.index == 0 and pod.owner_uid == job.uid), None)
    if first is None:
        return failure.disruption(names.CAUSE_EVIDENCE_LOST, "the Job completed, but pod 0 was gone before its report was read")
    if not first.is_over:
        return None
    report = TerminationMessage.parse(first.message)
    wrong = _what_is_wrong(first, report)
    if wrong or report is None or report.output_digest is None:
        return Ending(
            outcome=Outcome.OUTPUT_INVALID,
            message=f"exit code 0, but the output is not proven: {wrong}",
            exit_code=first.exit_code,
            pod=first.name,
            node=first.node or None,
            index=0,
            ended=job.completed or first.finished,
            report=report,
        )
    path = f"{names.attempt_directory(job.stage, job.attempt)}/{names.DIR_OUTPUT}"
    return Proven(OutputStatus(path=path, digest=report.output_digest, size_bytes=_size(report)), report)


def _size(report: TerminationMessage) -> int | None:
    """How large the output is, if the report says something that can be a size. The proof does not depend on it."""
    size = report.metrics.get(OUTPUT_BYTES)
    return int(size) if size is not None and 0 <= size <= MAX_INTEGER else None


def _what_is_wrong(pod: LivePod, report: TerminationMessage | None) -> str:
    """The first thing that keeps a report from being a proof; empty when nothing does."""
    if not pod.message:
        return "pod 0 left no termination message"
    if report is None:
        return "the termination message of pod 0 is malformed"
    if report.exit_code != 0:
        return f"the report of pod 0 says exit code {report.exit_code}"
    if report.output_digest is None:
        return "the report of pod 0 has no outputDigest"
    return ""
