"""Start, continue and stop a job through the embedded backend, and show what it does.

The backend decides and runs everything (`rlhf_operator.local.session`); this file connects it with a display, with Ctrl-C and with the
exit code of the process. Rules for a working directory that already holds a job: `rlhf run` never continues or replaces it silently.
`resume` continues it (a failed job from its failed stage, with the edits of a job file when one is named), `--fresh` discards it.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_api.outcome import ExitCode
from rlhf_cli import workdirs
from rlhf_cli.claims import parse_claims
from rlhf_cli.errors import EX_FAILURE, EX_INTERRUPTED, CommandError, refused
from rlhf_cli.interrupts import StopRequests
from rlhf_cli.job_files import read_object
from rlhf_cli.live import LastingStream, console_on, display
from rlhf_cli.stage_rows import new_rerun, phase_of
from rlhf_cli.summary import print_summary, result_of
from rlhf_operator.local.discard import discard
from rlhf_operator.local.processes import LocalRuntime
from rlhf_operator.local.session import Busy, LocalSession, Refused
from rlhf_operator.local.workdir import Workdir


def start(job_file: Path, *, workdir: Path | None, claims: list[str], profile: Path | None, is_fresh: bool, as_json: bool) -> int:
    """`rlhf run`: submit the job and drive it to its end. The exit code of the process.

    Raises:
        CommandError: the job is refused (64, 69), exists already (64), or its working directory cannot be written (74).
    """
    wire = read_object(job_file)
    _refuse_problems(wire)
    directory = workdir or workdirs.default_workdir(wire["metadata"]["name"])
    workdirs.refuse_damage(directory, is_discarded=is_fresh)
    session = LocalSession.open(directory, claims=parse_claims(claims), profile=_read_profile(profile))
    with _explained(directory):
        if workdirs.is_workdir(directory):
            _make_room(session, wire, directory, is_fresh)
        session.submit(wire)
        return _drive(session, directory, as_json)


def go_on(job: str | None, *, workdir: Path | None, claims: list[str], profile: Path | None, as_json: bool) -> int:
    """`rlhf resume`: clear the suspension, or run a failed stage again, and drive the job to its end. The exit code of the process.

    Raises:
        CommandError: there is no such job, it is running, or the changes in its job file are refused.
    """
    directory = workdirs.find_workdir(job, workdir)
    session = LocalSession.open(directory, claims=parse_claims(claims), profile=_read_profile(profile))
    edited = read_object(Path(job)) if job is not None and os.path.isfile(job) else None  # False, too, for a name that is too long
    with _explained(directory):
        _continue(session, edited)
        return _drive(session, directory, as_json)


def _continue(session: LocalSession, edited: dict[str, Any] | None) -> None:
    """Bring the spec to where `run` goes on: not suspended, with the user's edits, and with a new token when a stage has failed."""
    found = session.job()
    has_failed = phase_of(found) == "Failed"
    rerun = new_rerun(found) if has_failed else None
    if edited is not None:
        session.replace_spec(_edited_job(found, edited, rerun))
    elif rerun is not None:
        session.rerun(rerun["fromStage"], rerun["token"])
    elif phase_of(found) != "Succeeded":
        session.resume()


def _edited_job(found: Mapping[str, Any], edited: dict[str, Any], rerun: Mapping[str, str] | None) -> dict[str, Any]:
    """The edited file as it replaces the submitted one. A token that the user changed wins over ours.

    The token is written together with the edits: a stage that Succeeded may only change with a new one.
    """
    _refuse_problems(edited)
    new_name, name = edited["metadata"]["name"], found["metadata"]["name"]
    if new_name != name:
        raise CommandError(ExitCode.CONFIG, f"metadata.name: {new_name!r} is not the job to resume: {name!r}")
    own = edited["spec"].get("rerun") or {}
    if rerun is None or own.get("token") not in (None, found["status"].get("rerunToken")):
        return edited
    return {**edited, "spec": {**edited["spec"], "rerun": dict(rerun)}}


def stop(job: str | None, *, workdir: Path | None) -> str:
    """`rlhf cancel`: ask the job to stop after a checkpoint, whoever runs it. What happens now, in a sentence."""
    directory = workdirs.find_workdir(job, workdir)
    session = LocalSession.open(directory)
    found = session.job()
    if phase_of(found) in ("Succeeded", "Failed"):
        return f"{found['metadata']['name']} has ended ({phase_of(found)}); there is nothing to cancel"
    with _explained(directory):
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


def _read_profile(file: Path | None) -> dict[str, Any] | None:
    from rlhf_api.validate import find_profile_problems

    if file is None:
        return None
    wire = read_object(file, "profile")
    if problems := find_profile_problems(wire):
        raise refused(problems)
    return wire


def _make_room(session: LocalSession, wire: Mapping[str, Any], directory: Path, is_fresh: bool) -> None:
    """Discard the job that the directory holds, if --fresh says so, and never for one that would be refused next."""
    if not is_fresh:
        found = f"--workdir: '{directory}' holds a job already ({phase_of(session.job())})"
        raise CommandError(ExitCode.CONFIG, f"{found}: go on with `rlhf resume {handle(directory)}`, or discard it with --fresh")
    session.check(wire)
    discard(Workdir(directory.resolve()), LocalRuntime())


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Say errors of the backend in the words of the command line."""
    name = handle(directory)
    try:
        yield
    except Refused as error:
        raise refused(error.problems) from error
    except Busy as error:
        hint = f"watch it with `rlhf get {name}`, stop it with `rlhf cancel {name}`"
        raise CommandError(EX_FAILURE, f"{error}: {hint}") from error
    except OSError as error:
        what = f"--workdir: '{directory}' cannot be written ({error.strerror or error})"
        raise CommandError(ExitCode.STORAGE, f"{what}: free space, or name another directory") from error


def _drive(session: LocalSession, directory: Path, as_json: bool) -> int:
    """Run to the end, show it, say what became of it. Training does not end because nobody reads: the streams never fail."""
    output, words = LastingStream(sys.stdout), LastingStream(sys.stderr)
    console, errors = console_on(output), console_on(words)
    started = time.monotonic()
    with display(errors if as_json else console, time.monotonic) as shown:

        def asked() -> None:
            shown.note("stopping after a checkpoint; Ctrl-C again stops without one")

        with StopRequests(on_first=asked, on_second=session.abort) as stop_requests:
            job: dict[str, Any] = session.run(shown.update, stop_requests)
        shown.update(job)
    code, claims = int(session.exit_code()), Workdir(directory.resolve()).read_claims()
    if as_json:
        print(json.dumps(result_of(job, claims, directory, code), ensure_ascii=False, allow_nan=False), file=output, flush=True)
    elif code == 0:
        print_summary(console, job, claims, directory, time.monotonic() - started)
    for line in _last_words(session, job, code, handle(directory)):
        errors.print(line, markup=False, highlight=False, soft_wrap=True)
    return code


def _last_words(session: LocalSession, job: Mapping[str, Any], code: int, name: str) -> list[str]:
    """Why it ended otherwise than complete, and what to do about it."""
    if code == 0:
        return []
    if phase_of(job) in ("Suspended", "Running", "Starting", "Restarting") or code == EX_INTERRUPTED:
        return [f"stopped{_saved(session, job)}; go on with: rlhf resume {name}"]
    status = job.get("status") or {}
    failed = [stage for stage in status.get("stages") or [] if stage.get("phase") == "Failed"]
    words = [f"{stage['name']}: {stage.get('reason', '')}: {stage.get('message', '')}" for stage in failed]
    words += [f"{name}: {line}" for line in _refusal(status)] if not failed else [f"logs: rlhf logs {name} {failed[0]['name']}"]
    return words or [f"{name}: {phase_of(job)} {status.get('reason', '')}".rstrip()]


def _saved(session: LocalSession, job: Mapping[str, Any]) -> str:
    """Where a suspended stage will go on. Read from the volume: the last checkpoint is written after the pods' last report."""
    for stage in (job.get("status") or {}).get("stages") or []:
        if stage["phase"] == "Suspended":
            attempts = [session.directory(stage["name"], number) for number in range(1, stage["attempt"] + 1)]
            steps = [int(found.parent.name) for path in attempts for found in path.glob("checkpoints/[0-9]*/manifest.json")]
            return f" ({stage['name']} has a checkpoint at step {max(steps)})" if steps else f" ({stage['name']} has no checkpoint yet)"
    return ""


def _refusal(status: Mapping[str, Any]) -> list[str]:
    """The messages of the conditions that ended or refused the job."""
    bad = (("Accepted", "False"), ("Failed", "True"))
    return [
        f"{condition['reason']}: {text}"
        for condition in status.get("conditions") or []
        if (condition["type"], condition["status"]) in bad
        for text in str(condition.get("message", "")).splitlines()
    ]
