"""Gemini: weights, gradients and optimizer state in chunks that are sharded over workers, on the GPU or on the host.

One micro-batch a step (rule T3), no adapters, bf16 weights with fp32 masters. Masters and moments are read from the chunks directly:
Colossal-AI's own `state_dict` passes sharded chunks through bf16 on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.planning.strategy import CAPABILITIES, Capabilities
from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.run import Run
from rlhf_trainer.strategy import host, masters, sharded
from rlhf_trainer.strategy.base import OptimizerConfig, StepReport, Trained
from rlhf_trainer.strategy.booster import NO_LIMIT, adam_of, exact_buffers, guard, step_guarded, trainable, trained_of, world_of
from rlhf_trainer.strategy.plain import freeze, rollout_dtype
from rlhf_trainer.strategy.skeleton import Skeleton

_SMALLEST_CHUNKS_M = 32.0
"""Chunk size that Colossal-AI starts its search at, in 2^20 elements; small models get smaller chunks, or none would be sharded."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """This worker's part of a parameter. It may have none: chunks are cut without regard to parameters."""

    shape: torch.Size
    offset: int = 0
    """Where the part begins in the flattened parameter."""
    fake: Any = None
    """What Gemini gives to Adam in the place of the parameter."""
    master: Tensor | None = None


class GeminiStrategy:
    """ZeRO stage 3 in chunks."""

    def __init__(self, run: Run, *, offload: bool = False) -> None:
        self.name = "gemini-offload" if offload else "gemini"
        self._offload = offload
        self.world = world_of(run)
        host.activate()

    def capabilities(self) -> Capabilities:
        return CAPABILITIES[self.name]

    def prepare(self, model: nn.Module, config: OptimizerConfig | None, frozen: bool = False) -> Trained:
        if frozen or config is None:
            return freeze(model.to(self.world.device))
        if any(not parameter.requires_grad for parameter in model.parameters()):
            raise UnsupportedError(
                f"{self.name} trains all weights or none: adapters do not work", hint="use zero2, or remove spec.model.lora"
            )
        from colossalai.booster import Booster

        skeleton = Skeleton(model)
        is_cuda = self.world.device.type == "cuda"
        booster = Booster(plugin=self._plugin(model, is_cuda))
        named = trainable(model)
        adam = adam_of(named, config, is_cuda=is_cuda, must_be_hybrid=True)
        with exact_buffers(model):
            wrapped, optimizer = booster.boost(model, adam)[:2]
        guard(optimizer, adam)
        model.train()
        trained = trained_of(wrapped, model, config, optimizer, booster, named)
        trained.extra = skeleton
        return trained

    def accumulate(self, trained: Trained, last: bool) -> AbstractContextManager[None]:
        if not last:
            raise UnsupportedError(
                f"{self.name} takes one micro-batch a step (rule T3)", hint="lower globalBatchSize, or use zero2-offload"
            )
        return nullcontext()

    def backward(self, trained: Trained, loss: Tensor) -> None:
        trained.booster.backward(loss * self.world.size, trained.optimizer)

    def step(self, trained: Trained, max_norm: float) -> StepReport:
        trained.optimizer.max_norm = max_norm or NO_LIMIT
        return step_guarded(trained)

    @contextmanager
    def rollout_weights(self, trained: Trained) -> Iterator[nn.Module]:
        """A gathered copy in eval mode, freed afterwards (rule G6)."""
        skeleton: Skeleton = trained.extra
        dtype = rollout_dtype(torch.bfloat16, self.world.device, sum(shape.numel() for shape in skeleton.shapes.values()))
        try:
            for name, full in self._weights(trained):
                skeleton.fill(name, full.to(torch.bfloat16).to(dtype))
            skeleton.module.eval()
            with torch.no_grad():
                yield skeleton.module
        finally:
            skeleton.clear()

    def state(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        for name, chunk in self._chunks(trained):
            for key in ("weight", *masters.MOMENTS):
                yield f"{key}/{name}", self._full(trained, chunk, key)

    def load_state(self, trained: Trained, read: Callable[[str], Tensor]) -> None:
        optimizer = trained.optimizer
        for name, chunk in self._chunks(trained):
            if chunk.master is None:
                continue
            size = chunk.master.numel()
            with torch.no_grad():
                chunk.master.copy_(sharded.piece(read(f"weight/{name}"), chunk.offset, size))
            if trained.num_applied:
                moments = {key: sharded.piece(read(f"{key}/{name}"), chunk.offset, size).to(chunk.master.device) for key in masters.MOMENTS}
                optimizer.optim.state[chunk.fake] = {"step": trained.num_applied, **moments}
        for chunk16 in optimizer.chunk16_set:
            chunk16.optim_update()

    def export(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        skeleton: Skeleton = trained.extra
        for name, full in self._weights(trained):
            for alias in skeleton.aliases[name]:
                yield alias, full.to(torch.bfloat16).cpu()
        for name, tensor in skeleton.module.state_dict().items():
            if not tensor.is_meta:  # a buffer
                yield name, tensor.cpu()

    def _plugin(self, model: nn.Module, is_cuda: bool) -> Any:
        from colossalai.booster.plugin import GeminiPlugin

        num_millions = sum(parameter.numel() for parameter in model.parameters()) / 2**20
        fraction = 1.0 if self._offload else 0.0
        return GeminiPlugin(
            placement_policy="static",
            precision="bf16",
            max_norm=1.0,  # any limit makes it compute norms; `step` sets the real one
            offload_optim_frac=fraction,
            offload_param_frac=fraction,
            min_chunk_size_m=min(_SMALLEST_CHUNKS_M, num_millions / 8),
            search_range_m=min(32, max(1, int(num_millions))),
            pin_memory=is_cuda,
            enable_async_reduce=is_cuda,
        )

    def _weights(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        for name, chunk in self._chunks(trained):
            yield name, self._full(trained, chunk, "weight")

    def _full(self, trained: Trained, chunk: _Piece, key: str) -> Tensor:
        held = chunk.master if key == "weight" else trained.optimizer.optim.state.get(chunk.fake, {}).get(key)
        return sharded.join(held, chunk.offset, chunk.shape, self.world.device)

    def _chunks(self, trained: Trained) -> Iterator[tuple[str, _Piece]]:
        """Where this worker holds its part of each parameter."""
        optimizer, skeleton = trained.optimizer, trained.extra
        names = {id(parameter): name for name, parameter in trained.module.named_parameters()}
        for number, parameter in optimizer.id_to_real_params.items():
            name = names[id(parameter)]
            fake = optimizer.id_to_fake_params.get(number)
            if fake is None:
                yield name, _Piece(skeleton.shapes[name])
                continue
            begin, offset, size = optimizer.get_offsets(number)
            master = optimizer.param_to_chunk16[fake].paired_chunk.payload[begin : begin + size]
            yield name, _Piece(skeleton.shapes[name], offset, fake, master)
