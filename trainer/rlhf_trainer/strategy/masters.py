"""AdamW over fp32 masters: the optimizer of `plain` and `ddp` (rule T9).

fp32 parameters are their own masters. For bf16 ones, each step copies the gradient to fp32, steps the master, and rounds it back: small
updates add up in the master where they would be lost in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_trainer.strategy.base import OptimizerConfig, StepReport, Trained

MOMENTS = ("exp_avg", "exp_avg_sq")


class MasterAdamW:
    """torch's AdamW whose parameters are fp32 masters of the model's."""

    def __init__(self, parameters: dict[str, nn.Parameter], config: OptimizerConfig) -> None:
        self.working = parameters
        self.masters = {name: _master_of(parameter) for name, parameter in parameters.items()}
        self.adam = torch.optim.AdamW(
            list(self.masters.values()),
            lr=config.schedule.rate(0),
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,  # one kernel for all parameters, on a CPU too, where torch's default is a dozen for each
        )

    def gradients(self) -> list[Tensor]:
        """fp32 gradients on the masters, ready to be clipped. Parameters that took no part have none."""
        for name, master in self.masters.items():
            parameter = self.working[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        return [master.grad for master in self.masters.values() if master.grad is not None]

    def apply(self, learning_rate: float) -> None:
        """Step the masters and round them into the model."""
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        self.refresh()

    def refresh(self) -> None:
        """Make the model's parameters the rounded masters."""
        with torch.no_grad():
            for name, master in self.masters.items():
                if master is not self.working[name]:
                    self.working[name].copy_(master)

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in [*self.working.values(), *self.masters.values()]:
            parameter.grad = None


def train(model: nn.Module, module: nn.Module, config: OptimizerConfig) -> Trained:
    """A model in training: `model` is what is called, `module` the stage's own inside it."""
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    module.train()
    size = sum(12 * parameter.numel() for parameter in parameters.values())
    optimizer = MasterAdamW(parameters, config)
    return Trained(
        model=model,
        module=module,
        config=config,
        optimizer=optimizer,
        optimizer_choice="torch AdamW, fp32 masters",
        names=tuple(parameters),
        state_bytes=size,
    )


def step(trained: Trained, max_norm: float) -> StepReport:
    """Clip, step, clear. Gradients must be those of the whole gang already."""
    optimizer: MasterAdamW = trained.optimizer
    learning_rate = trained.learning_rate
    gradients = optimizer.gradients()
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
    grad_norm = float(norm)
    is_finite = bool(torch.isfinite(norm))
    if is_finite:
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(optimizer.masters.values(), max_norm, norm)
        optimizer.apply(learning_rate)
        trained.num_applied += 1
    trained.num_updates += 1
    optimizer.clear()
    return StepReport(grad_norm, learning_rate, was_skipped=not is_finite)


def state(trained: Trained) -> Iterator[tuple[str, Tensor]]:
    """Masters and moments by name. Moments of a parameter that never had a gradient are left out."""
    optimizer: MasterAdamW = trained.optimizer
    for name, master in optimizer.masters.items():
        yield f"weight/{name}", master.detach()
        moments: dict[str, Any] = optimizer.adam.state.get(master, {})
        for moment in MOMENTS:
            yield f"{moment}/{name}", moments[moment] if moments else torch.zeros_like(master)


def load_state(trained: Trained, read: Callable[[str], Tensor]) -> None:
    """Put masters, moments and Adam's step count back."""
    optimizer: MasterAdamW = trained.optimizer
    for name, master in optimizer.masters.items():
        with torch.no_grad():
            master.copy_(read(f"weight/{name}"))
        if trained.num_applied:
            optimizer.adam.state[master] = {
                "step": torch.tensor(float(trained.num_applied), device=master.device if master.is_cuda else "cpu"),
                **{moment: read(f"{moment}/{name}").to(master.device, copy=True) for moment in MOMENTS},
            }
    optimizer.refresh()


def _master_of(parameter: nn.Parameter) -> Tensor:
    if parameter.dtype == torch.float32:
        return parameter
    return parameter.detach().float()
