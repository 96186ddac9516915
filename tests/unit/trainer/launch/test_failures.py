"""Exceptions of a worker as outcomes (api.md section 9)."""

from __future__ import annotations

import errno
import socket

import pytest

from rlhf_api.run_config import RunPlan
from rlhf_trainer import failures
from rlhf_trainer.errors import DataError


class OutOfMemoryError(RuntimeError):
    """torch's, by name."""


class DistBackendError(RuntimeError):
    """torch's, by name."""


@pytest.mark.parametrize(("error", "code"), [
    (DataError("row 3"), 65),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 71),
    (MemoryError(), 72),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 72),
    (DistBackendError("NCCL error in: ncclUtils.cpp:77, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"), 71),
    (DistBackendError("NCCL error in: ncclUtils.cpp:77, unhandled cuda error\nLast error:\nCuda failure 'out of memory'"), 71),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 71),
    (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."), 71),
    (DistBackendError("NCCL error in: ncclUtils.cpp:77, unhandled cuda error\nLast error:\nCuda failure 999 'unknown error'"), 73),
    (DistBackendError("NCCL error"), 73),
    (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), 73),
    (ConnectionResetError(104, "Connection reset by peer"), 73),
    (socket.gaierror(-2, "Name or service not known"), 73),
    (OSError(errno.ENOSPC, "No space left on device"), 74),
    (OSError(errno.EROFS, "Read-only file system"), 74),
    (RuntimeError("I/O error: No space left on device (os error 28)"), 74),
    (PermissionError(errno.EACCES, "Permission denied"), 74),
    (FloatingPointError("loss is nan"), 76),
    (KeyError("x"), 70),
    (OSError(errno.ENOENT, "No such file"), 70),
])  # fmt: skip
def test_code_of(error: Exception, code: int) -> None:
    assert failures.as_stage_error(error).exit_code == code


def test_the_line_that_tells_of_the_memory_is_the_message() -> None:
    error = DistBackendError("NCCL error in: ncclUtils.cpp:77\nLast error:\nCuda failure 2 'out of memory'")
    found = failures.as_stage_error(error, RunPlan())
    assert (found.message, "gradientCheckpointing" in (found.hint or "")) == ("Cuda failure 2 'out of memory'", True)


def test_a_known_cause_inside_is_found() -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failures.as_stage_error(error).exit_code == 74


def test_a_suppressed_context_is_not_a_cause() -> None:
    error = ValueError("something else")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert failures.as_stage_error(error).exit_code == 74
    error.__suppress_context__ = True
    assert failures.as_stage_error(error).exit_code == 70


@pytest.mark.parametrize(("plan", "hint"), [
    (RunPlan(), "gradientCheckpointing"),
    (RunPlan(strategy="zero2", gradient_checkpointing=True), "zero2-offload"),
    (RunPlan(strategy="gemini-offload", gradient_checkpointing=True, micro_batch_size=4), "maxLength"),
    (RunPlan(strategy="plain", gradient_checkpointing=True), "more GPUs"),
    (None, "smaller model"),
])  # fmt: skip
def test_out_of_memory_names_a_smaller_plan(plan: RunPlan | None, hint: str) -> None:
    assert hint in (failures.as_stage_error(OutOfMemoryError("x"), plan).hint or "")
