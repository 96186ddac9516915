"""An average of the policy over its updates (`emaDecay`): fp32 on the CPU, part of the checkpoint, and in the end the output (rule P18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class Ema:
    """average = decay · average + (1 − decay) · weights, once for each optimizer step. Starts as the weights themselves."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._averages = {name: tensor.detach().float().cpu().clone() for name, tensor in _trained(module)}

    @property
    def state_bytes(self) -> int:
        """Size of `state`."""
        return sum(average.nbytes for average in self._averages.values())

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the weights of this step in."""
        for name, tensor in _trained(module):
            self._averages[name].lerp_(tensor.detach().float().cpu(), 1.0 - self.decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the averages in the place of the weights: before the export, never before another step."""
        for name, tensor in _trained(module):
            tensor.copy_(self._averages[name])

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """What a checkpoint keeps."""
        yield from self._averages.items()

    def load_state(self, read: Callable[[str], Tensor]) -> None:
        """Go on from `state()`."""
        for average in self._averages.items():
            average[1].copy_(read(average[0]))


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
