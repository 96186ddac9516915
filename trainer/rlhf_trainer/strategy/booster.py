"""Strategies of Colossal-AI behind our interface: ddp, and ZeRO with sharded optimizer state and gradients. `gemini.py` has the third.

Colossal-AI is used through its public classes (Booster and plugins). Its plugins *average* gradients over workers, our losses are parts of
a sum (rule F1): `backward` multiplies by the number of workers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.planning.strategy import CAPABILITIES, Capabilities
from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.run import Run
from rlhf_trainer.strategy import host, masters, sharded
from rlhf_trainer.strategy.base import OptimizerConfig, StepReport, Trained
from rlhf_trainer.strategy.plain import PlainStrategy, freeze, full_weights, tensors_of
from rlhf_trainer.strategy.world import World

log = logging.getLogger(__name__)

NO_LIMIT = float("inf")


class DDPStrategy(PlainStrategy):
    """A full copy on every worker, so everything as with one worker, but gradients are averaged."""

    name = "ddp"

    def __init__(self, run: Run) -> None:
        self.world = world_of(run)
        host.activate()

    def prepare(self, model: nn.Module, config: OptimizerConfig | None, frozen: bool = False) -> Trained:
        model.to(self.world.device)
        if frozen or config is None:
            return freeze(model)
        from colossalai.booster import Booster
        from colossalai.booster.plugin import TorchDDPPlugin

        booster = Booster(plugin=TorchDDPPlugin(static_graph=False, gradient_as_bucket_view=True))
        wrapped = booster.boost(model)[0]
        trained = masters.train(wrapped, model, config)
        trained.booster = booster
        return trained

    def accumulate(self, trained: Trained, last: bool) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = nullcontext() if last else trained.booster.no_sync(trained.model)
        return context

    def backward(self, trained: Trained, loss: Tensor) -> None:
        (loss * self.world.size).backward()  # type: ignore[no-untyped-call]


class ZeroStrategy:
    """ZeRO: optimizer state split over workers (stage 1), gradients too (stage 2), on the host when offloaded."""

    def __init__(self, run: Run, *, stage: int, offload: bool = False) -> None:
        self.name = f"zero{stage}" + ("-offload" if offload else "")
        self._stage, self._offload = stage, offload
        self._precision = run.config.model.precision
        self.world = world_of(run)
        host.activate()

    def capabilities(self) -> Capabilities:
        return CAPABILITIES[self.name]

    def prepare(self, model: nn.Module, config: OptimizerConfig | None, frozen: bool = False) -> Trained:
        if frozen or config is None:
            return freeze(model.to(self.world.device))
        from colossalai.booster import Booster
        from colossalai.booster.plugin import LowLevelZeroPlugin

        is_cuda = self.world.device.type == "cuda"
        plugin = LowLevelZeroPlugin(
            stage=self._stage,
            precision=self._precision,
            cpu_offload=self._offload,
            overlap_communication=is_cuda,  # a host has one order of execution
            verbose=False,
        )
        booster = Booster(plugin=plugin)
        named = trainable(model)
        adam = adam_of(named, config, is_cuda=is_cuda, must_be_hybrid=self._offload)
        with exact_buffers(model):
            wrapped, optimizer = booster.boost(model, adam)[:2]
        guard(optimizer, adam)
        model.train()
        return trained_of(wrapped, model, config, optimizer, booster, named)

    def accumulate(self, trained: Trained, last: bool) -> AbstractContextManager[None]:
        if last or self._stage == 2:  # rule T4: shards of stage 2 add up by themselves
            return nullcontext()
        context: AbstractContextManager[None] = trained.booster.no_sync(trained.model, trained.optimizer)
        return context

    def backward(self, trained: Trained, loss: Tensor) -> None:
        trained.booster.backward(loss * self.world.size, trained.optimizer)

    def step(self, trained: Trained, max_norm: float) -> StepReport:
        # The plugin takes the limit at construction only, stages know it per step.
        trained.optimizer._clip_grad_norm = max_norm
        return step_guarded(trained)

    def rollout_weights(self, trained: Trained) -> AbstractContextManager[nn.Module]:
        return full_weights(trained.module)

    def state(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        """Rule T1: the masters themselves; rebuilt from bf16 weights they would not continue exactly."""
        for name, parameter in trainable(trained.module).items():
            master, offset = self._shard(trained, parameter)
            moments = trained.optimizer.optim.state.get(master, {})
            pieces = {"weight": master} | {key: moments.get(key, torch.zeros_like(master)) for key in masters.MOMENTS}
            for key, shard in pieces.items():
                yield f"{key}/{name}", sharded.join(shard, offset, parameter.shape, self.world.device)

    def load_state(self, trained: Trained, read: Callable[[str], Tensor]) -> None:
        adam = trained.optimizer.optim
        for name, parameter in trainable(trained.module).items():
            master, offset = self._shard(trained, parameter)
            full = read(f"weight/{name}")
            with torch.no_grad():
                master.copy_(sharded.piece(full, offset, master.numel()).view_as(master))
                parameter.copy_(full.view_as(parameter))
            if trained.num_applied:
                moments = {key: sharded.piece(read(f"{key}/{name}"), offset, master.numel()) for key in masters.MOMENTS}
                adam.state[master] = {"step": adam_step(adam, trained), **{key: m.to(master.device) for key, m in moments.items()}}

    def export(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        return tensors_of(trained.module)

    def _shard(self, trained: Trained, parameter: nn.Parameter) -> tuple[Tensor, int]:
        """This worker's slice of the master of a parameter, and where it begins."""
        master: Tensor = trained.optimizer.get_working_to_master_map()[id(parameter)]
        return master, self.world.rank * master.numel()


def world_of(run: Run) -> World:
    """The gang of this worker. The process group exists (`worker.py` made it)."""
    is_cuda = run.config.gang.device == "cuda"
    device = torch.device("cuda", run.local_rank) if is_cuda else torch.device("cpu")
    return World(run.rank, run.world_size, device)


@contextmanager
def exact_buffers(model: nn.Module) -> Iterator[None]:
    """Keep floating-point buffers as they are while a plugin casts the weights (rule T9).

    Colossal-AI casts the frequencies of rotary positions too. In bf16 they are wrong by up to 0.4 %, which at position 1000 is radians: the
    policy would differ from the reference before the first update, and from its own export after the last.
    """
    exact = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    yield
    for name, buffer in model.named_buffers():
        if name in exact:
            buffer.data = exact[name].to(buffer.device)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name, each once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def trained_of(
    wrapped: nn.Module, module: nn.Module, config: OptimizerConfig, optimizer: Any, booster: Any, named: dict[str, nn.Parameter]
) -> Trained:
    """What `prepare` hands back."""
    size = sum(12 * parameter.numel() for parameter in named.values())
    choice = f"{type(optimizer.optim).__name__} in {type(optimizer).__name__}"
    return Trained(wrapped, module, config, optimizer, booster, optimizer_choice=choice, names=tuple(named), state_bytes=size)


def adam_of(named: dict[str, nn.Parameter], config: OptimizerConfig, *, is_cuda: bool, must_be_hybrid: bool) -> torch.optim.Optimizer:
    """Colossal-AI's HybridAdam when its kernels load, else torch's AdamW (rule T8). The choice is logged.

    Raises:
        UnsupportedError: the strategy needs HybridAdam, and there is neither a built kernel nor a compiler.
    """
    numbers: dict[str, Any] = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
    rate = config.schedule.rate(0)
    if is_cuda or must_be_hybrid:
        try:
            from colossalai.nn.optimizer import HybridAdam

            hybrid: torch.optim.Optimizer = HybridAdam(named.values(), lr=rate, **numbers)
            log.info("optimizer: HybridAdam")
            return hybrid
        except (RuntimeError, AssertionError, OSError, ImportError) as error:
            if must_be_hybrid:
                hint = "use zero1, zero2 or ddp, or an image with the kernels built (rlhf_trainer.doctor checks them)"
                raise UnsupportedError(
                    f"this strategy needs Colossal-AI's HybridAdam kernel, which does not load: {error}", hint
                ) from error
            log.warning("optimizer: torch AdamW, because HybridAdam's kernel does not load: %s", error)
    return torch.optim.AdamW(named.values(), lr=rate, fused=is_cuda or None, **numbers)


def guard(optimizer: Any, adam: torch.optim.Optimizer) -> None:
    """Make a non-finite gradient norm change nothing (rule P19): the plugins would step, and write NaN into every weight.

    They reduce the norm over all workers before they call the inner optimizer, so all decide alike.
    """
    step: Callable[..., Any] = adam.step

    def step_if_finite(*arguments: Any, div_scale: float | None = None, **keywords: Any) -> Any:
        if not math.isfinite(optimizer.get_grad_norm()):
            return None
        if div_scale is None:
            return step(*arguments, **keywords)
        _widen_on_host(adam)
        return step(*arguments, div_scale=div_scale, **keywords)

    adam.step = step_if_finite  # type: ignore[method-assign]


def _widen_on_host(adam: torch.optim.Optimizer) -> None:
    """Colossal-AI's CPU path for bf16 gradients ignores the scale, so that clipping would have no effect: give it fp32 ones."""
    for group in adam.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.device.type == "cpu" and gradient.dtype == torch.bfloat16:
                parameter.grad = gradient.float()


def step_guarded(trained: Trained) -> StepReport:
    """Step a plugin's optimizer at the schedule's rate, and say what happened."""
    optimizer, learning_rate = trained.optimizer, trained.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()
    grad_norm = float(optimizer.get_grad_norm())
    is_finite = math.isfinite(grad_norm)
    trained.num_updates += 1
    trained.num_applied += int(is_finite)
    return StepReport(grad_norm, learning_rate, was_skipped=not is_finite)


def adam_step(adam: torch.optim.Optimizer, trained: Trained) -> Any:
    """Adam's own step count, as the class stores it: torch a tensor, Colossal-AI a number."""
    return torch.tensor(float(trained.num_applied)) if isinstance(adam, torch.optim.AdamW) else trained.num_applied
