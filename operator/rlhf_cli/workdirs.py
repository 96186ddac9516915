"""Where the jobs of this machine live: `.rlhf/<job>` below the current directory, or where `--workdir` says."""

import json
from pathlib import Path

from rlhf_api import names
from rlhf_api.outcome import ExitCode
from rlhf_cli.errors import EX_FAILURE, CommandError

HOME = Path(".rlhf")


def default_workdir(job_name: str) -> Path:
    """Where `rlhf run` keeps a job unless told otherwise."""
    return HOME / job_name


def is_workdir(directory: Path) -> bool:
    """True when a job was submitted there, even if it is damaged now."""
    from rlhf_operator.local.workdir import NoSuchJob, Workdir

    try:
        Workdir(directory).read_job()
    except NoSuchJob:
        return False
    except ValueError:
        return True
    return True


def damage_of(directory: Path) -> str | None:
    """Which file of a job can no longer be read, and what to do; None when all is well. A full disk or a power cut cuts files off."""
    from rlhf_operator.local.workdir import Workdir

    claims = directory / "session.json"
    for file in (claims, *sorted((Workdir(directory).state / names.KIND_JOB).glob("*/*.json"))):
        if file.exists() and not _is_object(file):
            fix = "delete it, and name the claims again (rlhf resume --claim NAME=DIR)" if file == claims else f"delete {directory}"
            return f"{file}: is damaged (no JSON): {fix}"
    return None


def refuse_damage(directory: Path) -> None:
    """Nothing, when the job of a directory can be read.

    Raises:
        CommandError: 1, it cannot.
    """
    if damage := damage_of(directory):
        raise CommandError(EX_FAILURE, damage)


def _is_object(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except ValueError:
        return False


def all_workdirs() -> list[Path]:
    """The working directories below `.rlhf`, by name."""
    return sorted(path for path in HOME.glob("*") if is_workdir(path)) if HOME.is_dir() else []


def find_workdir(job: str | None, workdir: Path | None) -> Path:
    """The working directory that a user means by a job's name, a directory, a job file, or nothing when there is only one.

    Raises:
        CommandError: 64, when there is no such job, or several and none is named; 1, when its files are damaged.
    """
    found = _find(job, workdir)
    refuse_damage(found)
    return found


def _find(job: str | None, workdir: Path | None) -> Path:
    if workdir is not None:
        return _existing(workdir, f"--workdir {workdir}")
    if job is None:
        return _only_one()
    named, path = default_workdir(job), Path(job)
    if is_workdir(named):
        return named
    if path.is_dir():
        return _existing(path, job)
    if path.is_file():
        return _existing(default_workdir(_name_in(path)), job)
    raise CommandError(ExitCode.CONFIG, f"JOB: {job!r} is no job here: {_known()}")


def _existing(directory: Path, given: str) -> Path:
    if not is_workdir(directory):
        raise CommandError(ExitCode.CONFIG, f"JOB: {given!r} has no job ({directory} holds none): {_known()}")
    return directory


def _only_one() -> Path:
    jobs = all_workdirs()
    if len(jobs) != 1:
        raise CommandError(ExitCode.CONFIG, f"JOB: must be named: {_known()}")
    return jobs[0]


def _known() -> str:
    names = ", ".join(path.name for path in all_workdirs())
    return f"the jobs below {HOME} are {names}" if names else f"there are no jobs below {HOME}; start one: rlhf run JOB_FILE"


def _name_in(job_file: Path) -> str:
    from rlhf_cli.job_files import read_object

    metadata = read_object(job_file).get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise CommandError(ExitCode.CONFIG, f"{job_file}: metadata.name: {name!r} must be the name of a job")
    return name
