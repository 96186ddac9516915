"""What the oracle tests share: small random batches with holes in their masks, and how a mutant is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

GARBAGE = (float("nan"), float("inf"), -1e30)
"""What padding may hold."""


def names(mutants: list[Any]) -> dict[str, Any]:
    """Arguments of parametrize: the mutants with their names as ids."""
    return {"argnames": "mutant", "argvalues": mutants, "ids": [mutant.__name__ for mutant in mutants]}


def must_fail(check: Callable[[Any], None], mutant: Any) -> None:
    """The check refuses the mutant by an assertion, not by a crash of its own."""
    with pytest.raises(AssertionError):
        check(mutant)


def a_mask(b: int = 5, r: int = 7, seed: int = 0) -> Tensor:
    """Rows of all kinds: full, empty, one token, right and left padding, a hole. int64 (b, r)."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(b, r, generator=generator) < 0.6).long()
    mask[0], mask[1] = 1, 0
    mask[2] = torch.tensor([0] * 2 + [1] + [0] * (r - 3))
    mask[3] = torch.tensor([1] * 2 + [0] * 2 + [1] * (r - 6) + [0] * 2)
    return mask


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, fp32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def with_garbage(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with not-a-number, infinity and huge numbers in turn outside the mask."""
    filler = torch.tensor(GARBAGE).repeat(x.numel() // len(GARBAGE) + 1)[: x.numel()].view_as(x)
    return torch.where(mask.bool(), x, filler)


def close(found: Tensor, wanted: Tensor | float, tolerance: float = 1e-6) -> None:
    """Equal within a tolerance relative to the size of the numbers; not-a-number is never equal."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), wanted, rtol=tolerance, atol=tolerance)
