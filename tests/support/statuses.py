"""RLHFJobs as plain dicts, as the operator writes them: state what matters to the case, the rest has a default."""

from typing import Any


def a_stage(name: str = "sft", type_: str = "SFT", phase: str = "Running", **fields: Any) -> dict[str, Any]:
    """A stage of a status. `metrics` may be a dict."""
    if isinstance(fields.get("metrics"), dict):
        fields["metrics"] = [{"name": key, "value": value} for key, value in fields["metrics"].items()]
    return {"name": name, "type": type_, "phase": phase, "reason": "", "message": "", "attempt": 1, **fields}


def a_job(*stages: dict[str, Any], phase: str = "Running", name: str = "hello", **status: Any) -> dict[str, Any]:
    """A job whose spec has the given stages, prepare left out, as in a job file."""
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"stages": [{"name": stage["name"], "type": stage["type"]} for stage in stages if stage["name"] != "prepare"]},
        "status": {"phase": phase, "stages": list(stages), **status},
    }
