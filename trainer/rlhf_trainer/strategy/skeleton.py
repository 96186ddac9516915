"""A copy of a module without its weights: to be filled for a rollout, and emptied again."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn


class Skeleton:
    """The structure and buffers of a module; parameters are on the meta device until `fill` gives them. Tied ones stay tied."""

    def __init__(self, module: nn.Module) -> None:
        empty = {id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), False) for parameter in module.parameters()}
        # What the memo holds is not copied: the weights of the module are never doubled.
        self.module: nn.Module = copy.deepcopy(module, memo=dict(empty))
        self.module.requires_grad_(False)
        self.shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        self.aliases = _aliases(self.module)

    def fill(self, name: str, tensor: Tensor) -> None:
        """Give a parameter its values, under all its names."""
        parameter = nn.Parameter(tensor, requires_grad=False)
        for alias in self.aliases[name]:
            owner, _, leaf = alias.rpartition(".")
            self.module.get_submodule(owner)._parameters[leaf] = parameter

    def clear(self) -> None:
        """Give the memory back."""
        for name, shape in self.shapes.items():
            self.fill(name, torch.empty(shape, device="meta"))


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by the first one."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {each[0]: each for each in names.values()}
