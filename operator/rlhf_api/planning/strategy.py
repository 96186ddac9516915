"""What each strategy can do: a strategy and the features a stage asks for in, refusals out.

The table is `CAPABILITIES`. The contract asks before a job is accepted, the trainer asks again with the real world size and micro-batch
(rule T7): a combination that does not exist is refused before a GPU is used, with the smallest change that works.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

AUTO: Final = "auto"
PLAIN: Final = "plain"
DDP: Final = "ddp"
ZERO1: Final = "zero1"
ZERO2: Final = "zero2"
ZERO2_OFFLOAD: Final = "zero2-offload"
GEMINI: Final = "gemini"
GEMINI_OFFLOAD: Final = "gemini-offload"
THREE_D: Final = "3d"
FP16: Final = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a strategy can do on this stack (trainer design, section 3; most cells are measured with two ranks)."""

    many_workers: bool = True
    lora: bool = True
    load_in_4bit: bool = False
    accumulation: bool = True
    """Several micro-batches per optimizer step."""
    one_backbone: bool = True
    """PPO with one frozen base and an adapter for each role."""
    gathers_for_rollout: bool = False
    """True when a rollout needs the sharded weights gathered first."""
    precisions: frozenset[str] = frozenset({"bf16", "fp32"})


# Gemini moves parameters in chunks: adapters that switch and gradients that add up both break its books (rules T3, T7).
_IN_CHUNKS: Final = Capabilities(
    lora=False, accumulation=False, one_backbone=False, gathers_for_rollout=True, precisions=frozenset({"bf16"})
)

CAPABILITIES: Final[dict[str, Capabilities]] = {
    PLAIN: Capabilities(many_workers=False, load_in_4bit=True),
    DDP: Capabilities(load_in_4bit=True),
    ZERO1: Capabilities(),
    ZERO2: Capabilities(),
    ZERO2_OFFLOAD: Capabilities(),
    GEMINI: _IN_CHUNKS,
    GEMINI_OFFLOAD: _IN_CHUNKS,
}
"""Strategies from the simplest to the most frugal: `auto` takes the first that fits."""

OFFLOADING: Final = frozenset({ZERO2_OFFLOAD, GEMINI_OFFLOAD})
"""Strategies that keep optimizer state in host memory."""


SHARDING: Final = frozenset({ZERO1, ZERO2, GEMINI})
"""Strategies that save memory only by sharing it among workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a training stage asks of its strategy."""

    world_size: int = 1
    lora: bool = False
    load_in_4bit: bool = False
    precision: str = "bf16"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    num_micro_batches: int = 1
    """Micro-batches per optimizer step of one worker; more than one is gradient accumulation."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A feature that does not exist in this combination: the field of the job, its value, and the rule with its fix."""

    field: str
    value: object
    rule: str


def concrete(strategy: str, world_size: int) -> str:
    """The strategy that runs: `ddp` with one worker is `plain`, which has nothing to synchronize."""
    return PLAIN if strategy == DDP and world_size == 1 else strategy


def find_unsupported(strategy: str, features: Features) -> list[Refusal]:
    """Every reason why this combination does not exist; empty when it does. `auto` is refused only what every strategy refuses.

    Fields are relative to `spec` (`model.lora`, `strategy`, `topology.tensorParallel`): the caller puts the stage's path in front.
    """
    refusals = list(_always_unsupported(features))
    if strategy == THREE_D:
        refusals.append(Refusal("strategy", THREE_D, "is not in this image (its model policies need transformers 4.51): try zero2"))
    if strategy not in CAPABILITIES:
        return refusals
    able = CAPABILITIES[concrete(strategy, features.world_size)]
    return refusals + [refusal(strategy) for is_asked, is_able, refusal in _checks(features, able) if is_asked and not is_able]


def supports(strategy: str, features: Features) -> bool:
    """True when nothing refuses the combination."""
    return not find_unsupported(strategy, features)


def candidates(strategy: str, features: Features) -> list[str]:
    """The strategies to try for a stage, simplest first, as they would run. One at most unless `auto` was asked for."""
    asked = CAPABILITIES if strategy == AUTO else {strategy: None}
    runnable = (name for name in asked if name != PLAIN or features.world_size == 1)
    concretes = dict.fromkeys(concrete(name, features.world_size) for name in runnable)
    return [name for name in concretes if supports(name, features)]


def _always_unsupported(features: Features) -> Iterator[Refusal]:
    if features.precision == FP16:
        yield Refusal("model.precision", FP16, "is not supported (no loss scaling): try bf16")
    if features.tensor_parallel > 1:
        yield Refusal("topology.tensorParallel", features.tensor_parallel, "is not supported in this image: try 1 with strategy gemini")
    if features.pipeline_parallel > 1:
        yield Refusal("topology.pipelineParallel", features.pipeline_parallel, "is not supported in this image: try 1 with strategy gemini")


def _checks(features: Features, able: Capabilities) -> list[tuple[bool, bool, Callable[[str], Refusal]]]:
    """Asked for, able to, and the refusal: one row per capability of the table."""
    return [
        (
            features.world_size > 1,
            able.many_workers,
            lambda name: Refusal("strategy", name, f"runs one worker, the topology has {features.world_size}: try ddp"),
        ),
        (
            features.precision != FP16,  # refused everywhere already
            features.precision in able.precisions,
            lambda name: Refusal("model.precision", features.precision, f"does not work with strategy {name}: try bf16, or strategy zero2"),
        ),
        (
            features.load_in_4bit,
            able.load_in_4bit,
            lambda name: Refusal("model.loadIn4bit", True, f"cannot be sharded by strategy {name}: try strategy ddp, or loadIn4bit false"),
        ),
        (
            features.lora,
            able.lora,
            lambda name: Refusal("strategy", name, f"cannot train LoRA adapters: try {_without_lora_limit(name)}, or remove model.lora"),
        ),
        (
            features.num_micro_batches > 1,
            able.accumulation,
            lambda name: Refusal(
                "strategy",
                name,
                f"cannot accumulate gradients, the plan has {features.num_micro_batches} micro-batches per step: "
                f"try {_without_lora_limit(name)}, or a global batch of one micro-batch per worker",
            ),
        ),
    ]


def _without_lora_limit(strategy: str) -> str:
    """The strategy nearest in memory that has no gap in the table."""
    return ZERO2_OFFLOAD if strategy == GEMINI_OFFLOAD else ZERO2
