"""One worker, plain PyTorch: neither Colossal-AI, peft nor bitsandbytes is imported (rule S1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from rlhf_trainer.run import Run
from rlhf_trainer.strategy import masters
from rlhf_trainer.strategy.base import Capabilities, OptimizerConfig, StepReport, Trained
from rlhf_trainer.strategy.world import World


class PlainStrategy:
    """The whole model and its optimizer on one device."""

    name = "plain"

    def __init__(self, run: Run) -> None:
        cuda = run.config.gang.device == "cuda"
        self.world = World(0, 1, torch.device("cuda", run.local_rank) if cuda else torch.device("cpu"))

    def capabilities(self) -> Capabilities:
        return Capabilities(many_workers=False, lora=True, qlora=True, accumulation=True, one_backbone=True)

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
        return evaluating(trained.module)

    def state(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        return masters.state(trained)

    def load_state(self, trained: Trained, read: Callable[[str], Tensor]) -> None:
        masters.load_state(trained, read)

    def export(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in trained.module.state_dict().items():
            yield name, tensor.detach().cpu()


def freeze(model: nn.Module) -> Trained:
    """A model that is only read: no gradients, no dropout."""
    model.requires_grad_(False)
    model.eval()
    return Trained(model=model, module=model)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Eval mode and no gradients inside; the mode of before afterwards."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        module.train(was_training)
