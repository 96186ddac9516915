"""Where the jobs of this machine live: `.rlhf/<job>` below the current directory, or where `--workdir` says."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rlhf_api import names
from rlhf_api.outcome import ExitCode
from rlhf_cli.errors import EX_FAILURE, CommandError

HOME = Path(".rlhf")
SESSION = "session.json"


def default_workdir(job_name: str) -> Path:
    """Where `rlhf run` keeps a job unless told otherwise."""
    return HOME / job_name


def is_workdir(directory: Path) -> bool:
    """True when a job was submitted there, even if it is damaged now, or another user's: then `damage_of` says so."""
    from rlhf_operator.local.workdir import Workdir

    try:
        return any(_files_below(Workdir(directory).state / names.KIND_JOB))
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG  # no file can have such a name


def damage_of(directory: Path, *, is_discarded: bool = False) -> str | None:
    """Which file of a job cannot be read, and what to do; None when all is well. A full disk or a power cut cuts files off.

    A job that is about to be discarded needs no objects, only its claims.
    """
    from rlhf_operator.local.workdir import Workdir

    try:
        _read(directory / "lock")  # who may not open it, cannot ask whether the job runs
        for file in (directory / SESSION, *_files_below(Workdir(directory).state)):
            if _is_cut_off(file) and (file == directory / SESSION or not is_discarded):
                return f"{file}: is damaged (no JSON): {_repair(directory, file)}"
    except OSError as error:
        return _unreadable(error)
    return None


def refuse_damage(directory: Path, *, is_discarded: bool = False) -> None:
    """Nothing, when the job of a directory can be read.

    Raises:
        CommandError: 1, it cannot.
    """
    if damage := damage_of(directory, is_discarded=is_discarded):
        raise CommandError(EX_FAILURE, damage)


def _files_below(directory: Path) -> Iterator[Path]:
    """The objects stored there. Not by glob: it passes over what it may not read, and then there seems to be nothing."""

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for folder, _, files in os.walk(directory, onerror=note):
        yield from sorted(Path(folder, file) for file in files if file.endswith(".json"))


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None  # never written, or deleted meanwhile


def _is_cut_off(file: Path) -> bool:
    data = _read(file)
    try:
        return data is not None and not isinstance(json.loads(data), dict)
    except ValueError:
        return True


def _repair(directory: Path, file: Path) -> str:
    if file == directory / SESSION:
        return "delete it, and name the claims again (rlhf resume --claim NAME=DIR)"
    if file.parent.parent.name == "Event":
        return "delete it: nothing depends on an event"
    return f"delete {directory}, or start over with rlhf run --fresh"


def _unreadable(error: OSError) -> str:
    return f"{error.filename}: cannot be read ({error.strerror}): get access to it, or take another directory (--workdir)"


def all_workdirs() -> list[Path]:
    """The working directories below `.rlhf`, by name.

    Raises:
        CommandError: 1, `.rlhf` itself cannot be read.
    """
    try:
        return sorted(path for path in HOME.iterdir() if is_workdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CommandError(EX_FAILURE, _unreadable(error)) from error


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
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long
        return _existing(path, job)
    if os.path.isfile(path):
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
