"""Which strategy a run uses. Colossal-AI is imported only by those that need it (rule S1)."""

from __future__ import annotations

from rlhf_api.planning.strategy import DDP, PLAIN, Features, concrete, find_unsupported
from rlhf_trainer.errors import UnsupportedError
from rlhf_trainer.run import Run
from rlhf_trainer.strategy.base import Strategy
from rlhf_trainer.strategy.plain import PlainStrategy


def build(run: Run) -> Strategy:
    """The strategy of run.json's plan, for this worker. Call once a process, before models are built.

    Raises:
        UnsupportedError: it does not exist in this image, or not together with the model's settings (rule T7).
    """
    name = concrete(run.config.plan.strategy, run.world_size)
    _refuse_unsupported(run, name)
    return PlainStrategy(run) if name == PLAIN else _boosted(run, name)


def _boosted(run: Run, name: str) -> Strategy:
    _require_process_group(run)
    if name.startswith("gemini"):
        from rlhf_trainer.strategy.gemini import GeminiStrategy

        return GeminiStrategy(run, offload=name.endswith("-offload"))
    from rlhf_trainer.strategy.booster import DDPStrategy, ZeroStrategy

    if name == DDP:
        return DDPStrategy(run)
    return ZeroStrategy(run, stage=int(name[4]), offload=name.endswith("-offload"))


def _require_process_group(run: Run) -> None:
    """A gang of one may offload too: Colossal-AI wants a process group then, which needs no network."""
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "nccl" if run.config.gang.device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _refuse_unsupported(run: Run, name: str) -> None:
    model, plan = run.config.model, run.config.plan
    features = Features(
        world_size=run.world_size,
        lora=model.lora is not None,
        load_in_4bit=model.load_in_4bit,
        precision=model.precision,
        tensor_parallel=plan.tensor_parallel,
        pipeline_parallel=plan.pipeline_parallel,
    )
    if refusals := find_unsupported(name, features):
        raise UnsupportedError("; ".join(f"spec.{refusal.field}: {refusal.value!r} {refusal.rule}" for refusal in refusals))
