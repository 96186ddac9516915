"""How a job ended, as an exit code: an RLHFJob (as a plain dict) in, a code of api.md section 9 out. The same on a laptop and a cluster."""

from collections.abc import Mapping
from typing import Any

from rlhf_api import names
from rlhf_api.outcome import ExitCode, Outcome, exit_code_of

WITHOUT_CODE = 1


def code_of(job: Mapping[str, Any]) -> int | None:
    """0 when the job is complete; the code of what failed it; 64, or 69 for Unsupported, when it is not accepted; None while it goes on."""
    status = job.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    if _is(conditions, names.CONDITION_COMPLETE, "True"):
        return 0
    if _is(conditions, names.CONDITION_FAILED, "True"):
        return _code_of_failure(status)
    if _is(conditions, names.CONDITION_ACCEPTED, "False"):
        is_unsupported = conditions[names.CONDITION_ACCEPTED].get("reason") == names.REASON_UNSUPPORTED
        return int(ExitCode.UNSUPPORTED if is_unsupported else ExitCode.CONFIG)
    return None


def _is(conditions: Mapping[str, Mapping[str, Any]], kind: str, status: str) -> bool:
    return conditions.get(kind, {}).get("status") == status


def _code_of_failure(status: Mapping[str, Any]) -> int:
    """The contract's code of the last outcome of the first failed stage; the pod's own where there is no contract; else 1."""
    failed: Mapping[str, Any] = next((stage for stage in status.get("stages") or [] if stage.get("phase") == "Failed"), {})
    attempt = (failed.get("attempts") or [{}])[-1]
    outcome = attempt.get("outcome")
    code = exit_code_of(Outcome(outcome)) if outcome in {known.value for known in Outcome} else None
    return int(code or attempt.get("exitCode") or WITHOUT_CODE)
