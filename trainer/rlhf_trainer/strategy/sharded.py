"""Full tensors from pieces, and back. Pieces are slices of the flattened tensor; the tensor may be padded at its end."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def join(pieces: Tensor | None, offset: int, shape: torch.Size, device: torch.device) -> Tensor:
    """The fp32 tensor whose slice from `offset` this worker holds; workers without a part give None. On every worker.

    Zeros with one piece each are added up: exact, one collective, and it works for pieces of any size.
    """
    full = torch.zeros(shape.numel(), dtype=torch.float32, device=device)
    if pieces is not None:
        flat = pieces.detach().flatten()
        num_real = min(flat.numel(), full.numel() - offset)  # the rest is padding
        if num_real > 0:
            full[offset : offset + num_real] = flat[:num_real]
    dist.all_reduce(full)
    return full.view(shape)


def piece(full: Tensor, offset: int, size: int) -> Tensor:
    """The flat slice of `size` elements from `offset`, zeros where it is padding."""
    flat = full.detach().flatten()[max(0, offset) : offset + size]
    return torch.nn.functional.pad(flat, [0, size - flat.numel()])
