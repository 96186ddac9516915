"""How a stage ends when it does not succeed: one class for each exit code.

StageError             what a stage says back: a reason for the job's status, and an exit code
├── ConfigError        64 the job asks for something impossible                     never retried
├── DataError          65 rows of a dataset cannot be used                          never retried
├── InputError         66 a file of an input is missing or has another sha256       never retried
├── UnsupportedError   69 this strategy, model and feature do not exist together    never retried
├── InternalError      70 a defect of the trainer                                   costs an attempt
├── GPUOutOfMemory     71 the plan does not fit; the hint names one that does       never retried
├── HostOutOfMemory    72 the machine's memory was used up                          costs an attempt
├── CommunicationError 73 a peer was lost, or never came                            retried, not counted
├── StorageError       74 the volume is full, or failed                             costs an attempt
├── Preempted          75 asked to stop by the platform; checkpoint saved           retried, not counted
├── Diverged           76 non-finite numbers, or the KL guard                       never retried
├── GateFailed         77 the output is complete but missed a required quality      never retried
└── StalledError       78 no step was finished in time                              costs an attempt

`worker.py` turns an error into a report for the launcher; `launch.py` makes it the pod's exit code and last words.
"""

from __future__ import annotations

from typing import ClassVar

from rlhf_api.outcome import ExitCode


class StageError(Exception):
    """The reason why a stage ended, in words for its user.

    `message` names field, value and rule; `hint` is what to change, when we know it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(StageError):
    """The settings contradict each other, or the model."""

    exit_code = ExitCode.CONFIG


class DataError(StageError):
    """Rows of a dataset cannot be used. The message names file, row and field."""

    exit_code = ExitCode.DATA


class InputError(StageError):
    """A file listed in an input's manifest is missing, or its content changed."""

    exit_code = ExitCode.INPUT


class UnsupportedError(StageError):
    """The combination of strategy, model and feature does not exist here. The hint is the smallest change that works."""

    exit_code = ExitCode.UNSUPPORTED


class InternalError(StageError):
    """The trainer broke one of its own promises."""

    exit_code = ExitCode.INTERNAL


class GPUOutOfMemory(StageError):
    """The plan does not fit the device. The hint is a smaller plan."""

    exit_code = ExitCode.GPU_OUT_OF_MEMORY


class HostOutOfMemory(StageError):
    """The memory of the machine, or of the pod, was used up."""

    exit_code = ExitCode.HOST_OUT_OF_MEMORY


class CommunicationError(StageError):
    """A peer was lost or never arrived, or its name could not be resolved."""

    exit_code = ExitCode.COMMUNICATION


class StorageError(StageError):
    """The volume is full, read-only or failing."""

    exit_code = ExitCode.STORAGE


class Preempted(StageError):
    """The platform asked the attempt to stop; what it had done is saved."""

    exit_code = ExitCode.PREEMPTED


class Diverged(StageError):
    """The numbers left the finite ones, or the policy left its reference. The last good checkpoint stays."""

    exit_code = ExitCode.DIVERGED


class GateFailed(StageError):
    """A quality that the job requires was missed. The output is complete and is kept."""

    exit_code = ExitCode.GATE_FAILED


class StalledError(StageError):
    """The watchdog saw no step within `deadlines.progressSeconds`."""

    exit_code = ExitCode.STALLED
