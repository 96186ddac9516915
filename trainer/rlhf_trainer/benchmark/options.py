"""The command line of the benchmark: arguments in, checked options out, all problems at once.

Flags and strategies of ColossalChat's `benchmark_gpt_dummy.py` are understood as they are written there: underscores in flags, and the
names in `ALIASES`. No torch here: `--plan` prints before anything heavy is loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rlhf_api.planning.architectures import KNOWN, LEARNED_POSITIONS, TINY_LLAMA, Architecture, Family
from rlhf_api.planning.strategy import AUTO, CAPABILITIES, DDP, THREE_D
from rlhf_trainer.errors import ConfigError

ALIASES = {
    "naive": "plain",
    "colossalai_zero1": "zero1",
    "colossalai_zero1_cpu": "zero2-offload",
    "colossalai_zero2": "zero2",
    "colossalai_zero2_cpu": "zero2-offload",
    "colossalai_gemini": "gemini",
    "colossalai_gemini_cpu": "gemini-offload",
}
"""ColossalChat's strategy -> ours (trainer design, section 3)."""
MODELS = {
    **{name.removeprefix("gpt2-"): shape for name, shape in KNOWN.items() if shape.family is Family.GPT2},
    **{name: shape for name, shape in KNOWN.items() if shape.family is Family.OPT},
    TINY_LLAMA.name: TINY_LLAMA,
}
"""`--model` -> shape: GPT-2 by size (`s`, `xl`, `175b`), `opt-…`, and one for machines without a GPU."""
_PLAN_ONLY = ("nodes", "gpus_per_node", "gpu_memory_gib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured. Batches are those of one worker, as in ColossalChat."""

    model: str
    strategy: str
    """One of ours; aliases are resolved."""
    experience_batch_size: int
    """Prompts that a worker answers in a rollout."""
    train_batch_size: int
    """Answers that a worker adds to an optimizer step."""
    lora_rank: int
    """0: all weights are trained."""
    grad_checkpoint: bool
    """False: only where the plan does not fit the GPU without."""
    num_episodes: int
    """The first one warms up and is not measured."""
    num_rollouts: int
    """Rollouts of an episode."""
    prompt_tokens: int
    total_tokens: int
    """Tokens of prompt and answer."""
    directory: Path | None
    """Where the temporary volume goes; None: the system's place."""
    plan: bool
    """Print the planner's plan, run nothing."""
    nodes: int | None
    gpus_per_node: int | None
    gpu_memory_gib: int | None

    @property
    def shape(self) -> Architecture:
        """The architecture of all four models."""
        return MODELS[self.model]

    @property
    def new_tokens(self) -> int:
        """Tokens of each answer."""
        return self.total_tokens - self.prompt_tokens


class _Parser(argparse.ArgumentParser):
    """Ends like every other command here: exit code 64, in words."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint="--help lists all options")


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; None is this process's.

    Raises:
        ConfigError: arguments are unknown, or contradict each other. Every one is named.
    """
    given = vars(_parser().parse_args([_hyphened(text) for text in (sys.argv[1:] if arguments is None else arguments)]))
    options = Options(**{**given, "strategy": ALIASES.get(given["strategy"], given["strategy"])})
    if problems := list(_problems(options)):
        raise ConfigError("; ".join(problems))
    return options


def alias_notice(arguments: Sequence[str] | None = None) -> str | None:
    """What to tell about a strategy that is called otherwise here; None when there is nothing to tell."""
    given = _parser().parse_args([_hyphened(text) for text in (sys.argv[1:] if arguments is None else arguments)]).strategy
    return f"--strategy {given} is {ALIASES[given]} here" if given in ALIASES else None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m rlhf_trainer.bench", description="Measure PPO on random weights and random prompts.")
    parser.add_argument("--model", choices=MODELS, default="s", metavar="NAME", help=f"one of {', '.join(MODELS)}")
    strategies = [AUTO, *CAPABILITIES, THREE_D, *ALIASES]
    parser.add_argument("--strategy", choices=strategies, default=DDP, metavar="NAME", help=f"one of {', '.join(strategies)}")
    for name, default, text in (
        ("--experience-batch-size", 8, "prompts that a worker answers in a rollout"),
        ("--train-batch-size", 8, "answers of a worker in an optimizer step"),
        ("--lora-rank", 0, "0: all weights are trained"),
        ("--num-episodes", 3, "the first one warms up and is not measured"),
        ("--num-rollouts", 8, "rollouts of an episode, each followed by its update"),
        ("--prompt-tokens", 400, "tokens of a prompt"),
        ("--total-tokens", 512, "tokens of prompt and answer"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text} ({default})")
    parser.add_argument(
        "--grad-checkpoint", action="store_true", help="recompute activations; else only where the GPU is too small without"
    )
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the temporary volume goes: models, a checkpoint, outputs")
    parser.add_argument("--plan", action="store_true", help="print the planner's plan and run nothing")
    parser.add_argument("--nodes", type=int, metavar="N", help="with --plan: nodes (those of this launch)")
    parser.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="with --plan: GPUs of a node; 0 is a node without (those of this launch)"
    )
    parser.add_argument("--gpu-memory-gib", type=int, metavar="N", help="with --plan: memory of a GPU (80)")
    return parser


def _hyphened(text: str) -> str:
    """ColossalChat's spelling of a flag as ours. `--lora_rank=8` -> `--lora-rank=8`"""
    flag, equals, value = text.partition("=")
    return flag.replace("_", "-") + equals + value if text.startswith("--") else text


def _problems(options: Options) -> Iterator[str]:
    """Field, value, rule, fix."""
    for name, lowest, highest in (
        ("experience_batch_size", 1, 4096),
        ("train_batch_size", 1, 4096),
        ("lora_rank", 0, 1024),
        ("num_episodes", 2, 1000),
        ("num_rollouts", 1, 1000),
        ("prompt_tokens", 8, 1_048_576),
    ):
        value = getattr(options, name)
        if not lowest <= value <= highest:
            why = " (the first one is not measured)" if name == "num_episodes" else ""
            yield f"{_flag(name)}: {value} must be between {lowest} and {highest}{why}"
    if options.total_tokens <= options.prompt_tokens:
        yield f"--total-tokens: {options.total_tokens} must be above --prompt-tokens {options.prompt_tokens}"
    context = options.shape.context
    if options.shape.family in LEARNED_POSITIONS and options.total_tokens > context:
        yield f"--total-tokens: {options.total_tokens} must be at most {context}, the positions of {options.model}"
    rollout, size = options.experience_batch_size, options.train_batch_size
    if rollout > 0 and size > 0 and rollout % size:
        fits = max(divisor for divisor in range(1, size + 1) if rollout % divisor == 0)
        yield f"--train-batch-size: {size} must divide --experience-batch-size {rollout}: try {fits}"
    if options.directory is not None and not options.directory.is_dir():
        yield f"--directory: {str(options.directory)!r} must be a directory that exists"
    for name in _PLAN_ONLY:
        value = getattr(options, name)
        if value is not None and not options.plan:
            yield f"{_flag(name)}: {value} has a meaning with --plan only: a run takes the GPUs of its launch"
        elif value is not None and value < (0 if name == "gpus_per_node" else 1):
            yield f"{_flag(name)}: {value} must be at least {0 if name == 'gpus_per_node' else 1}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
