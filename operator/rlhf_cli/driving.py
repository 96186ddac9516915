"""Start, continue and stop a job through the embedded backend, and show what it does.

The backend decides and runs everything (`rlhf_operator.local.session`); this file connects it with a display, with Ctrl-C and with the
exit code of the process. Rules for a working directory that already holds a job: `rlhf run` never continues or replaces it silently.
`resume` continues it (a failed job from its failed stage, with the edits of a job file when one is named), `--fresh` discards it.
"""

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rlhf_operator.local.session import Busy, LocalSession, Refused

from rlhf_cli import workdirs
from rlhf_cli.claims import parse_claims
from rlhf_cli.errors import CommandError, refused
from rlhf_cli.interrupts import StopRequests
from rlhf_cli.job_files import read_object
from rlhf_cli.live import display
from rlhf_cli.summary import print_summary, result_of

EX_FAILURE, EX_CONFIG, EX_STORAGE, EX_INTERRUPTED = 1, 64, 74, 130


def start(job_file: Path, *, workdir: Path | None, claims: list[str], profile: Path | None, is_fresh: bool, as_json: bool) -> int:
    """`rlhf run`: submit the job and drive it to its end. The exit code of the process.

    Raises:
        CommandError: the job is refused (64, 69), exists already (64), or its working directory cannot be written (74).
    """
    wire = read_object(job_file)
    _refuse_problems(wire)
    directory = workdir or workdirs.default_workdir(wire["metadata"]["name"])
    _make_room(directory, is_fresh)
    session = _open(directory, parse_claims(claims), read_object(profile, "profile") if profile else None)
    try:
        session.submit(wire)
    except Refused as error:
        raise refused(error.problems) from error
    return _drive(session, directory, as_json)


def go_on(job: str | None, *, workdir: Path | None, claims: list[str], as_json: bool) -> int:
    """`rlhf resume`: clear the suspension, or run a failed stage again, and drive the job to its end. The exit code of the process."""
    directory = workdirs.find_workdir(job, workdir)
    session = _open(directory, parse_claims(claims), None)
    _refuse_when_running(session, directory)
    if job is not None and Path(job).is_file():
        _apply_edits(session, Path(job))
    found = session.job()
    if _phase(found) == "Failed":
        session.rerun(_first_unfinished(found), uuid.uuid4().hex[:12])
    elif _phase(found) != "Succeeded":
        session.resume()
    return _drive(session, directory, as_json)


def stop(job: str | None, *, workdir: Path | None) -> str:
    """`rlhf cancel`: ask the job to stop after a checkpoint, whoever runs it. What happens now, in a sentence."""
    directory = workdirs.find_workdir(job, workdir)
    session = _open(directory, {}, None)
    found = session.job()
    if _phase(found) in ("Succeeded", "Failed"):
        return f"{found['metadata']['name']} has ended ({_phase(found)}); there is nothing to cancel"
    session.suspend()
    return f"{found['metadata']['name']} stops after a checkpoint; go on with: rlhf resume {handle(directory)}"


def handle(directory: Path) -> str:
    """How to name the job on the command line: its name when it lies below .rlhf, else its working directory."""
    return directory.name if directory == workdirs.default_workdir(directory.name) else str(directory)


def _refuse_problems(wire: Mapping[str, Any]) -> None:
    """Refuse before a directory is made: a job that breaks rules, or that this version cannot run."""
    from rlhf_api.job import RLHFJob
    from rlhf_api.validate import find_problems, find_unsupported

    if problems := find_problems(wire) or find_unsupported(RLHFJob.from_wire(wire)):
        raise refused(problems)


def _make_room(directory: Path, is_fresh: bool) -> None:
    if not workdirs.is_workdir(directory):
        return
    session = _open(directory, {}, None)
    _refuse_when_running(session, directory)
    if not is_fresh:
        found = f"--workdir: '{directory}' holds a job already ({_phase(session.job())})"
        raise CommandError(EX_CONFIG, f"{found}: go on with `rlhf resume {handle(directory)}`, or discard it with --fresh")
    shutil.rmtree(directory)


def _refuse_when_running(session: LocalSession, directory: Path) -> None:
    if session.is_running():
        name = handle(directory)
        raise CommandError(
            EX_FAILURE, f"{name}: another rlhf process runs this job: watch it with `rlhf get {name}`, stop it with `rlhf cancel {name}`"
        )


def _open(directory: Path, claims: Mapping[str, Path], profile: Mapping[str, Any] | None) -> LocalSession:
    try:
        return LocalSession.open(directory, claims=claims, profile=profile)
    except Refused as error:
        raise refused(error.problems) from error
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> CommandError:
    return CommandError(EX_STORAGE, f"--workdir: '{directory}' cannot be written ({error.strerror}): free space, or name another directory")


def _apply_edits(session: LocalSession, job_file: Path) -> None:
    wire = read_object(job_file)
    _refuse_problems(wire)
    if wire["metadata"]["name"] != session.job()["metadata"]["name"]:
        raise CommandError(EX_CONFIG, f"{job_file}: metadata.name: {wire['metadata']['name']!r} is another job than the one to resume")
    try:
        session.replace_spec(wire["spec"])
    except Refused as error:
        raise refused(error.problems) from error


def _drive(session: LocalSession, directory: Path, as_json: bool) -> int:
    """Run to the end, show it, say what became of it."""
    console, errors = Console(), Console(stderr=True)
    started = time.monotonic()
    with display(errors if as_json else console, time.monotonic) as shown:

        def asked() -> None:
            shown.note("stopping after a checkpoint; Ctrl-C again stops without one")

        with StopRequests(on_first=asked, on_second=session.abort) as stop_requests:
            try:
                job: dict[str, Any] = session.run(shown.update, stop_requests)
            except Busy as error:
                raise CommandError(EX_FAILURE, str(error)) from error
            except OSError as error:
                raise _unwritable(directory, error) from error
            shown.update(job)
    code = int(session.exit_code())
    if as_json:
        print(json.dumps(result_of(job, session.claims, directory, code), ensure_ascii=False, allow_nan=False))
    elif code == 0:
        print_summary(console, job, session.claims, directory, time.monotonic() - started)
    for line in _last_words(job, code, handle(directory)):
        errors.print(line, markup=False, highlight=False, soft_wrap=True)
    return code


def _last_words(job: Mapping[str, Any], code: int, name: str) -> list[str]:
    """Why it ended otherwise than complete, and what to do about it."""
    if code == 0:
        return []
    if _phase(job) in ("Suspended", "Running", "Starting", "Restarting") or code == EX_INTERRUPTED:
        return [f"stopped{_newest_checkpoint(job)}; go on with: rlhf resume {name}"]
    status = job.get("status") or {}
    failed = [stage for stage in status.get("stages") or [] if stage.get("phase") == "Failed"]
    words = [f"{stage['name']}: {stage.get('reason', '')}: {stage.get('message', '')}" for stage in failed]
    words += [f"{name}: {line}" for line in _refusal(status)] if not failed else [f"logs: rlhf logs {name} {failed[0]['name']}"]
    return words or [f"{name}: {_phase(job)} {status.get('reason', '')}".rstrip()]


def _newest_checkpoint(job: Mapping[str, Any]) -> str:
    saved = [stage for stage in (job.get("status") or {}).get("stages") or [] if stage.get("checkpoint") and stage["phase"] != "Succeeded"]
    return f" ({saved[-1]['name']} has a checkpoint at step {saved[-1]['checkpoint']['step']})" if saved else ""


def _refusal(status: Mapping[str, Any]) -> list[str]:
    """The messages of the conditions that ended or refused the job."""
    bad = (("Accepted", "False"), ("Failed", "True"))
    return [
        f"{condition['reason']}: {text}"
        for condition in status.get("conditions") or []
        if (condition["type"], condition["status"]) in bad
        for text in str(condition.get("message", "")).splitlines()
    ]


def _phase(job: Mapping[str, Any]) -> str:
    return str((job.get("status") or {}).get("phase", "Pending"))


def _first_unfinished(job: Mapping[str, Any]) -> str:
    """The stage to run again: the one that failed, else the first that has not Succeeded."""
    stages = job["status"]["stages"]
    failed = [stage["name"] for stage in stages if stage["phase"] == "Failed"]
    unfinished = [stage["name"] for stage in stages if stage["phase"] != "Succeeded"]
    return str((failed or unfinished)[0])
