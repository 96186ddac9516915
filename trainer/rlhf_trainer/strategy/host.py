"""Colossal-AI's plugins on a machine without a GPU: an accelerator and an Adam kernel at Colossal-AI's own extension points, and a
chunk for Gemini that knows one from the other.

It proves sharding, reduction, masters, state, resume and capability rules. It does not prove stream ordering, overlap, pinned copies,
memory figures, kernel speed or NCCL (rule H1): functional only. Never active where CUDA is visible (rule H2).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from colossalai.accelerator.api import set_accelerator
from colossalai.accelerator.base_accelerator import BaseAccelerator
from colossalai.accelerator.cpu_accelerator import CpuAccelerator
from colossalai.kernel.extensions.base_extension import _Extension
from colossalai.kernel.kernel_loader import CPUAdamLoader
from colossalai.zero.gemini.chunk import manager as chunk_manager
from colossalai.zero.gemini.chunk.chunk import Chunk
from torch import Tensor

from rlhf_trainer.strategy.host_adam import AdamKernel

log = logging.getLogger(__name__)
_is_active = False
_CARD = torch.device("cpu", 0)


class _Stream:
    """There is one order of execution on a host; every stream is that order."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""

    def wait_event(self, event: object) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Everything has happened."""


class _Event:
    def record(self, stream: object = None) -> None:
        """Everything before is done already."""

    def wait(self, stream: object = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Everything has happened."""


class HostAccelerator(CpuAccelerator):  # type: ignore[misc]
    """The host under a name that LowLevelZero and Gemini accept: they know cuda and npu."""

    def __init__(self) -> None:
        BaseAccelerator.__init__(self, name="npu", communication_backend="gloo", is_synchronous=True)

    def get_current_device(self) -> torch.device:
        """`cpu:0`: the memory of the imagined card. `cpu` without a number is the host, to which things are offloaded."""
        return _CARD

    def synchronize(self, device: object = None) -> None:
        """Everything has happened."""

    def device_count(self) -> int:
        return 1

    def memory_allocated(self, device: object = None) -> int:
        """Not measured here: 0, as all memory counters."""
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    def empty_cache(self) -> None:
        """There is no cache."""

    def get_rng_state(self, device: str = "cpu") -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, new_state: Tensor, device: str = "cpu") -> None:
        torch.set_rng_state(new_state)

    def Stream(self, device: object = None, priority: int = 0, **_: Any) -> _Stream:  # noqa: N802 - torch's name
        return _Stream()

    def Event(self, *_: Any, **__: Any) -> _Event:  # noqa: N802 - torch's name
        return _Event()

    def current_stream(self, device: object = None) -> _Stream:
        return _Stream()

    default_stream = current_stream

    def stream(self, stream_: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class _CardDevice:
    """What Gemini takes for an accelerator's device: it looks at the type, and that it is the current one."""

    type = "npu"

    def __eq__(self, other: object) -> bool:
        return other == _CARD

    def __hash__(self) -> int:
        return hash(_CARD)


class HostChunk(Chunk):  # type: ignore[misc]
    """A Gemini chunk that tells the imagined card from the host, which both are `cpu` to torch: offloading is bookkeeping here."""

    def __init__(self, *arguments: Any, cpu_shard_init: bool = False, **keywords: Any) -> None:
        super().__init__(*arguments, cpu_shard_init=cpu_shard_init, **keywords)
        if not cpu_shard_init:
            self.shard_device = _CardDevice()

    def shard_move(self, device: Any, force_copy: bool = False, non_blocking: bool = False) -> None:
        """Move the shard to the card or to the host."""
        if device != _CARD:
            super().shard_move(device, force_copy, non_blocking)
        elif self.cuda_shard is None:
            super().shard_move(_CardDevice(), force_copy, non_blocking)


class _AdamExtension(_Extension):  # type: ignore[misc]
    """Our Adam kernel, where Colossal-AI looks for compiled ones."""

    def __init__(self) -> None:
        super().__init__(name="host_adam", support_aot=False, support_jit=False, priority=100)

    def is_available(self) -> bool:
        return True

    def assert_compatible(self) -> None:
        """Any host will do."""

    def build_aot(self) -> None:
        """Nothing to build."""

    def build_jit(self) -> None:
        """Nothing to build."""

    def load(self) -> SimpleNamespace:
        return SimpleNamespace(CPUAdamOptimizer=AdamKernel)


def activate() -> None:
    """Register accelerator and kernel, once. Does nothing where CUDA is visible."""
    global _is_active
    if _is_active or torch.cuda.is_available():
        return
    _is_active = True
    log.warning("no GPU: Colossal-AI runs on the host accelerator, which is functional only (no overlap, no kernels, no memory figures)")
    set_accelerator(HostAccelerator())
    chunk_manager.Chunk = HostChunk
    CPUAdamLoader.register_extension(_AdamExtension)
    # It warns that a compiled kernel might be there too; ours is preferred on purpose: it needs no compiler.
    warnings.filterwarnings("ignore", message="More than one kernel is available")
