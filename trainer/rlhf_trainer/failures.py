"""Any exception of a worker as a `StageError`: whose fault it was, and whether a retry can help (api.md section 9).

Libraries are recognised by name and text, so that nothing heavy is imported to find out that it was not the cause.
"""

from __future__ import annotations

import errno
import re
import socket

from rlhf_api.run_config import RunPlan
from rlhf_trainer.errors import (
    CommunicationError,
    Diverged,
    GPUOutOfMemory,
    HostOutOfMemory,
    InternalError,
    StageError,
    StorageError,
)

STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE})
_STORAGE_TEXTS = ("No space left on device", "(os error 28)", "Disk quota exceeded", "Read-only file system")
_GPU_MEMORY = re.compile(
    r"^.*(?:Cuda failure (?:\d+ )?'out of memory'|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory).*$", re.MULTILINE
)
"""Said by NCCL and cuBLAS, whose buffers torch does not allocate: no `OutOfMemoryError`, and in the words of a lost peer."""
_PEER_NAMES = ("DistBackendError", "DistNetworkError", "DistStoreError")
_PEER_TEXTS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "monitoredBarrier")
_HOST_MEMORY_TEXTS = ("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory")
_NEXT_STRATEGY = {"ddp": "zero2", "zero1": "zero2", "zero2": "zero2-offload", "gemini": "gemini-offload"}


def as_stage_error(error: BaseException, plan: RunPlan | None = None) -> StageError:
    """What the error means for the job. A chain of causes is followed: the innermost known one decides."""
    for each in _chain(error):
        known = _recognise(each, plan)
        if known is not None:
            return known
    return InternalError(f"{type(error).__name__}: {error}", hint="the traceback is in the log of this worker")


def smaller_plan(plan: RunPlan | None) -> str:
    """The smallest change that needs less GPU memory."""
    if plan is None:
        return "use a smaller model"
    if not plan.gradient_checkpointing:
        return "set gradientCheckpointing: true: activations are recomputed instead of kept"
    if plan.strategy in _NEXT_STRATEGY:
        return f"set strategy: {_NEXT_STRATEGY[plan.strategy]}: less of the training state on each GPU"
    if plan.micro_batch_size > 1:
        return "set model.lora, or lower maxLength: the micro-batch shrinks with it"
    return "set model.lora, or use more GPUs (topology.gpusPerNode, topology.nodes)"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, outermost first: what we raised ourselves says it best."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return chain


def _recognise(error: BaseException, plan: RunPlan | None) -> StageError | None:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, StageError):
        return error
    if (isinstance(error, OSError) and error.errno in STORAGE_ERRNOS) or any(part in text for part in _STORAGE_TEXTS):
        return StorageError(f"the volume is full or failing: {error}", hint="enlarge spec.storage.size")
    if isinstance(error, PermissionError):
        return StorageError(f"the volume cannot be written: {error}", hint="the pod's user must be able to write to it")
    if type(error).__name__ == "OutOfMemoryError":
        return GPUOutOfMemory(_first_line(error), hint=smaller_plan(plan))
    if isinstance(error, RuntimeError) and (said := _GPU_MEMORY.search(str(error))):
        return GPUOutOfMemory(said.group().strip(), hint=smaller_plan(plan))
    if isinstance(error, MemoryError) or any(part in text for part in _HOST_MEMORY_TEXTS):
        return HostOutOfMemory(f"host memory is used up: {_first_line(error)}", hint="more memory for the pods, or fewer processes of each")
    if isinstance(error, ConnectionError | socket.gaierror) or type(error).__name__ in _PEER_NAMES:
        return CommunicationError(_first_line(error))
    if isinstance(error, RuntimeError) and any(part in text for part in _PEER_TEXTS):
        return CommunicationError(_first_line(error))
    if isinstance(error, FloatingPointError):
        return Diverged(_first_line(error))
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
