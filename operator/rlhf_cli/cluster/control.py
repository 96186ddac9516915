"""Submit, stop and continue a job on a cluster: what the user wants in, one change of the spec and a sentence out.

The operator acts on the spec alone (`suspend`, `rerun`), so these commands need no more rights than `kubectl apply`.
"""

from pathlib import Path

from rlhf_api.outcome import ExitCode
from rlhf_cli.cluster.jobs import Jobs, Object
from rlhf_cli.errors import CommandError, refused
from rlhf_cli.job_files import read_object
from rlhf_cli.stage_rows import new_rerun, phase_of


def submit(jobs: Jobs, job_file: Path, *, is_namespace_given: bool) -> Object:
    """Create the job of a file. It is checked here first, because the server stops at its first kind of problem.

    Raises:
        CommandError: the file breaks rules, the server refuses it, or there is a job of that name.
    """
    from rlhf_api.validate import find_problems

    wire = read_object(job_file)
    if problems := find_problems(wire):
        raise refused(problems)
    own = wire["metadata"].get("namespace")
    if own and own != jobs.namespace:
        if is_namespace_given:
            fix = "remove one of the two, or make them equal"
            raise CommandError(ExitCode.CONFIG, f"metadata.namespace: {own!r} is not the namespace of -n ({jobs.namespace}): {fix}")
        jobs.connection.namespace = own
    return jobs.create(wire)


def cancel(jobs: Jobs, name: str) -> str:
    """Suspend a job. What happens now, in a sentence."""
    job = jobs.get(name)
    if phase_of(job) in ("Succeeded", "Failed"):
        return f"{name} has ended ({phase_of(job)}); there is nothing to cancel"
    if job["spec"].get("suspend"):
        return f"{name} is suspended already"
    jobs.patch(name, {"suspend": True})
    return f"{name} stops after a checkpoint and gives its nodes back"


def resume(jobs: Jobs, name: str) -> str:
    """Let a suspended job go on, or run the failed stage of a failed one again. What happens now, in a sentence."""
    job = jobs.get(name)
    if phase_of(job) == "Failed":
        rerun = new_rerun(job)
        jobs.patch(name, {"suspend": None, "rerun": rerun})
        return f"{name} runs again from its stage {rerun['fromStage']}"
    if not job["spec"].get("suspend"):
        return f"{name} is not suspended ({phase_of(job)}); there is nothing to resume"
    jobs.patch(name, {"suspend": None})
    return f"{name} goes on from its newest checkpoint"
