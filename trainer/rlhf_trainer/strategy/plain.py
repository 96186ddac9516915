"""One worker, plain PyTorch: neither Colossal-AI, peft nor bitsandbytes is imported (rule S1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from rlhf_api.planning.strategy import CAPABILITIES, Capabilities
from rlhf_trainer.memory import free_host_bytes
from rlhf_trainer.run import Run
from rlhf_trainer.strategy import masters
from rlhf_trainer.strategy.base import OptimizerConfig, StepReport, Trained
from rlhf_trainer.strategy.skeleton import Skeleton
from rlhf_trainer.strategy.world import World

log = logging.getLogger(__name__)


class PlainStrategy:
    """The whole model and its optimizer on one device."""

    name = "plain"

    def __init__(self, run: Run) -> None:
        cuda = run.config.gang.device == "cuda"
        self.world = World(0, 1, torch.device("cuda", run.local_rank) if cuda else torch.device("cpu"))

    def capabilities(self) -> Capabilities:
        return CAPABILITIES[self.name]

    def prepare(self, model: nn.Module, config: OptimizerConfig | None, frozen: bool = False) -> Trained:
        model.to(self.world.device)
        if frozen or config is None:
            return freeze(model)
        return masters.train(model, model, config)

    def accumulate(self, trained: Trained, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, trained: Trained, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, trained: Trained, max_norm: float) -> StepReport:
        return masters.step(trained, max_norm)

    def rollout_weights(self, trained: Trained) -> AbstractContextManager[nn.Module]:
        return full_weights(trained.module)

    def state(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        return masters.state(trained)

    def load_state(self, trained: Trained, read: Callable[[str], Tensor]) -> None:
        masters.load_state(trained, read)

    def export(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        return tensors_of(trained.module)


def freeze(model: nn.Module) -> Trained:
    """A model that is only read: no gradients, no dropout."""
    model.requires_grad_(False)
    model.eval()
    return Trained(model=model, module=model)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The module's state dict on the host, one tensor at a time."""
    for name, tensor in module.state_dict().items():
        yield name, tensor.detach().cpu()


@contextmanager
def full_weights(module: nn.Module) -> Iterator[nn.Module]:
    """A whole module in eval mode, no gradients; its mode is put back. On a CPU, bf16 weights come as an fp32 copy (rule T9)."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield _rollout_copy(module)
    finally:
        module.train(was_training)


def rollout_dtype(dtype: torch.dtype, device: torch.device, num_parameters: int) -> torch.dtype:
    """bf16 generation on a CPU is four times slower than fp32 (measured): fp32, if the copy fits into free memory."""
    if device.type != "cpu" or dtype == torch.float32:
        return dtype
    if 4 * num_parameters < free_host_bytes() / 2:
        return torch.float32
    log.warning("generation runs in %s: there is no memory for an fp32 copy of the weights, which would be faster on a CPU", dtype)
    return dtype


def _rollout_copy(module: nn.Module) -> nn.Module:
    """The module, or its fp32 copy: of bf16 weights that generate on a CPU, whether they have fp32 adapters or not.

    Models that only read whole rows (score models) stay as they are, bf16 is three times faster there; so do weights packed in 4 bits.
    """
    parameters = dict(module.named_parameters())
    formats = {parameter.dtype for parameter in parameters.values()}
    is_plain_bf16 = torch.bfloat16 in formats and formats <= {torch.bfloat16, torch.float32}
    if not is_plain_bf16 or not getattr(module, "generates", True):
        return module
    device = next(iter(parameters.values())).device
    dtype = rollout_dtype(torch.bfloat16, device, sum(parameter.numel() for parameter in parameters.values()))
    if dtype == torch.bfloat16:
        return module
    skeleton = Skeleton(module)
    for name, parameter in parameters.items():
        skeleton.fill(name, parameter.detach().to(dtype))
    return skeleton.module
