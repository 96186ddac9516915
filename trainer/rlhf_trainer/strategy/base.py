"""The one interface between the stages and the ways to spread a model over workers.

A stage builds its strategy from run.json (`strategy.select.build(run)`), hands it each model with `prepare`, and then trains with
`accumulate`, `backward` and `step`. Losses are *sums over the local rows divided by the global count*: what all workers' losses add up to
is the objective, and the strategy undoes the averaging of the plugins that average (rule F1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from rlhf_api.planning.strategy import Capabilities
from rlhf_trainer.schedule import Schedule
from rlhf_trainer.strategy.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    schedule: Schedule
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.0
    """Applied to every trained tensor of two or more dimensions: norms and biases are not decayed."""


@dataclass(slots=True)
class Trained:
    """A model in the hands of a strategy. Frozen models have neither optimizer nor schedule."""

    model: nn.Module
    """Call this one: it may be a wrapper that synchronizes gradients."""
    module: nn.Module
    """The stage's own module inside. Its parameters may be sharded: read them through the strategy."""
    config: OptimizerConfig | None = None
    optimizer: Any = None
    """torch's or the plugin's optimizer. Only the strategy touches it."""
    booster: Any = None
    """Colossal-AI's Booster of this model, when there is one."""
    optimizer_choice: str = ""
    """Which Adam it is (rule T8), for `env.json`."""
    num_updates: int = 0
    """Calls of `step`, skipped ones included: where the learning rate schedule stands."""
    num_applied: int = 0
    """Calls of `step` that changed the weights: Adam's own count."""
    num_skipped_in_a_row: int = 0
    """Non-finite steps since the last good one. Not part of a checkpoint: after a resume the count begins anew."""
    names: tuple[str, ...] = ()
    """Trained parameters, by the name they have in `module`."""
    extra: Any = None
    """What the strategy remembers beside it."""
    state_bytes: int = 0
    """Size of `state`: master, and two moments, in fp32 of every trained parameter."""

    @property
    def learning_rate(self) -> float:
        """What the next step uses."""
        return self.config.schedule.rate(self.num_updates) if self.config else 0.0


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Equal on all workers."""

    grad_norm: float
    """Global norm of the gradient before clipping."""
    learning_rate: float
    was_skipped: bool
    """True when the norm was not finite: no worker changed its weights (rule P19)."""


class Strategy(Protocol):
    """How training state is spread. One object a process."""

    name: str
    world: World

    def capabilities(self) -> Capabilities:
        """What this strategy can do."""

    def prepare(self, model: nn.Module, config: OptimizerConfig | None, frozen: bool = False) -> Trained:
        """Take over a model on the host: move, wrap, shard, and build its optimizer. `frozen=True` needs no config: the model is only read.

        Raises:
            UnsupportedError: rule T7, for example adapters under gemini.
        """

    def accumulate(self, trained: Trained, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch. Gradients meet those of the other workers in the last one at the latest."""

    def backward(self, trained: Trained, loss: Tensor) -> None:
        """Add the gradients of this worker's part of the objective."""

    def step(self, trained: Trained, max_norm: float) -> StepReport:
        """Clip by the global norm (0 = no clipping), step at the schedule's rate, clear the gradients. All workers together.

        A non-finite norm changes nothing on any worker.
        """

    def rollout_weights(self, trained: Trained) -> AbstractContextManager[nn.Module]:
        """The full, unsharded module in eval mode, to generate and score with. No gradients inside. All workers together."""

    def state(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        """Full fp32 tensors on the host, one at a time: `weight/<name>`, `exp_avg/<name>`, `exp_avg_sq/<name>` of every trained parameter.

        All workers must drain it; rank 0 gets the tensors, others may get empty ones.
        """

    def load_state(self, trained: Trained, read: Callable[[str], Tensor]) -> None:
        """Put back what `state` gave, under any world size. Set `trained.num_applied` before. All workers together, all can read."""

    def export(self, trained: Trained) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the module's state dict on the host, in the model's dtype. All workers must drain it; rank 0 gets them."""
