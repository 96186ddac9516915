"""Which strategy a run uses. Colossal-AI is imported only by those that need it (rule S1)."""

from __future__ import annotations

from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.run import Run
from rlhf_trainer.strategy.base import Capabilities, Strategy
from rlhf_trainer.strategy.plain import PlainStrategy


def build(run: Run) -> Strategy:
    """The strategy of run.json's plan, for this worker. Call once a process, before models are built.

    Raises:
        UnsupportedError: it does not exist in this image, or not together with the model's settings (rule T7).
    """
    name = run.config.plan.strategy
    if run.world_size == 1 and name == "ddp":
        name = "plain"
    strategy = PlainStrategy(run) if name == "plain" else _boosted(run, name)
    _require(run, strategy.name, strategy.capabilities())
    return strategy


def _boosted(run: Run, name: str) -> Strategy:
    _require_process_group(run)
    if name.startswith("gemini"):
        from rlhf_trainer.strategy.gemini import GeminiStrategy

        return GeminiStrategy(run, offload=name.endswith("-offload"))
    from rlhf_trainer.strategy.booster import DDPStrategy, ZeroStrategy

    if name == "ddp":
        return DDPStrategy(run)
    if name.startswith("zero"):
        return ZeroStrategy(run, stage=int(name[4]), offload=name.endswith("-offload"))
    raise UnsupportedError(f"spec.strategy: {name!r} is not in this image", hint="use gemini or zero2 with more GPUs")


def _require_process_group(run: Run) -> None:
    """A gang of one may offload too: Colossal-AI wants a process group then, which needs no network."""
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "nccl" if run.config.gang.device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _require(run: Run, name: str, can: Capabilities) -> None:
    model, plan = run.config.model, run.config.plan
    if run.world_size > 1 and not can.many_workers:
        raise UnsupportedError(f"spec.strategy: {name!r} is one worker's, and there are {run.world_size}", hint="set spec.strategy: auto")
    if plan.tensor_parallel * plan.pipeline_parallel > 1:
        raise UnsupportedError("tensorParallel and pipelineParallel must be 1 in this image", hint="use zero2 or gemini")
    if model.precision == "fp16":
        raise UnsupportedError("spec.model.precision: 'fp16' would need loss scaling, which does not exist yet", hint="use bf16")
    if model.lora is not None and not can.lora:
        raise UnsupportedError(f"spec.strategy: {name!r} does not train adapters", hint="use zero2, or remove spec.model.lora")
    if model.load_in_4bit and not can.qlora:
        raise UnsupportedError(f"spec.model.loadIn4bit: {name!r} cannot shard a 4-bit model", hint="use ddp, or set loadIn4bit: false")
