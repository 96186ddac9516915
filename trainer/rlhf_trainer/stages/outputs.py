"""The output of a training stage: written, reloaded from disk and compared before its manifest says that it is complete.

    output/model/      the complete model, adapters merged: what the next stage reads
    output/adapter/    the adapter alone, in peft's layout, when the stage trained one
    output/critic/     PPO: the critic
    output/manifest.json

The comparison (rules O2, O4) loads the files through transformers' Auto classes and asks for the same logits on a few rows. It runs in this
process: a fresh one would cost its 12 seconds of imports for each model, and the next stage is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_trainer.errors import InternalError
from rlhf_trainer.loop import Loop
from rlhf_trainer.models import adapters, export, load
from rlhf_trainer.models.heads import LanguageModel, ScoreModel, last_token
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import inputs
from rlhf_trainer.stages.card import LOAD_MODEL, LOAD_SCORE, Card
from rlhf_trainer.state import manifest

if TYPE_CHECKING:
    from rlhf_trainer.rl.chunks import Head
    from rlhf_trainer.strategy.base import Strategy, Trained

CHECK_ROWS = 8
CHECK_TOKENS = 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference between memory and disk, as `deviation` has it. fp32: rule O2 asks for 1e-5 of the merge alone, which a test measures;
matrix products in another order add the rest. bf16 merges round every weight: a single logit of 262144 was 0.7 off (Gemma 3 270M)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """One model of an output."""

    folder: str
    """`model` or `critic`."""
    source: Path
    """The directory that the stage started from: tokenizer and template are copied from it."""
    stop_ids: tuple[int, ...]
    pad_id: int
    check_ids: Sequence[Sequence[int]]
    """A few token rows on which memory and disk are compared."""
    facts: Mapping[str, Any]
    """Goes into `stage.json`: metrics, and for score models `mean`."""
    head_scale: float = 1.0
    """Multiplies the head of a score model on its way out (rule R5)."""


def complete(
    run: Run, strategy: Strategy, loop: Loop, models: Sequence[tuple[Trained, ModelOutput]], metrics: Mapping[str, float]
) -> StageResult:
    """Write all models of a stage, then the manifest that makes them its output. All workers together.

    Raises:
        InternalError: what was written is not what was trained.
        StorageError: the volume is full or failing. There is no manifest then, so no output.
    """
    for trained, output in models:
        write_model(run, strategy, trained, output)
        loop.reporter.alive()
    digest = ""
    metrics = {**metrics, **strategy.world.share(sizes(run) if run.is_first else None)}
    if run.is_first:
        digest = manifest.write_manifest(run.output, "output", run, step=loop.step, inputs=inputs.digests(run), metrics=metrics)
    digest = strategy.world.share(digest)
    loop.reporter.update(metrics)
    return StageResult(output_digest=digest, step=loop.step, metrics=metrics, checkpoint=loop.last_checkpoint)


def sizes(run: Run) -> dict[str, float]:
    """Bytes of the whole output, and of the model that the next stage reads."""
    files = {path: path.stat().st_size for path in run.output.rglob("*") if path.is_file()}
    model = sum(size for path, size in files.items() if path.is_relative_to(run.output / "model"))
    return {"output_bytes": float(sum(files.values())), "model_bytes": float(model)}


def check_rows(rows: Sequence[Any], field: str) -> list[list[int]]:
    """The token rows on which a stage compares memory and disk: the first few, cut to where they are cheap on a CPU."""
    return [[int(token) for token in getattr(row, field)[:CHECK_TOKENS]] for row in rows[:CHECK_ROWS]]


def write_model(run: Run, strategy: Strategy, trained: Trained, output: ModelOutput) -> None:
    """Write one model below `output/`. All workers together; rank 0 writes.

    Raises:
        InternalError: what was written is not what was trained.
    """
    directory = run.output / output.folder
    has_adapter = adapters.has_adapter(trained.module)
    with strategy.rollout_weights(trained) as module:
        assert isinstance(module, LanguageModel | ScoreModel)
        expected = _check_values(module, output)
        tied, dtype = export.tied_names(module.hf), _dtype_of(module.hf)
    if has_adapter and run.is_first:
        hf: Any = trained.module.hf
        adapters.write_adapter(hf, run.output / _adapter_folder(output), head_scale=output.head_scale)
        export.write_weights(directory, _saved(adapters.merged_tensors(hf), tied, output))
    elif not has_adapter:
        tensors = ((name.removeprefix("hf."), tensor) for name, tensor in strategy.export(trained) if name.startswith("hf."))
        if run.is_first:
            export.write_weights(directory, _saved(tensors, tied, output))
        for _ in tensors:  # the other workers only take part in gathering
            pass
    if run.is_first:
        _write_rest(run, trained.module, directory, output)
        _compare(directory, dtype, strategy.world.device, isinstance(trained.module, ScoreModel), output, expected)


def _adapter_folder(output: ModelOutput) -> str:
    return "adapter" if output.folder == "model" else f"{output.folder}-adapter"


def _dtype_of(hf: Any) -> torch.dtype:
    found: torch.dtype = next(
        tensor.dtype for name, tensor in hf.named_parameters() if "lora_" not in name and tensor.is_floating_point() and "score" not in name
    )
    return found


def _saved(tensors: Iterator[tuple[str, Tensor]], tied: set[str], output: ModelOutput) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        if name == "score.weight":
            yield name, tensor.float() * output.head_scale  # fp32 in every file: a rounded scale is another normalisation
        elif name not in tied:
            yield name, tensor


def _write_rest(run: Run, module: Any, directory: Path, output: ModelOutput) -> None:
    export.write_config(directory, module.hf, load.torch_dtype(run.config.model.precision), pad_id=output.pad_id)
    export.write_generation_config(directory, stop_ids=output.stop_ids, pad_id=output.pad_id)
    export.copy_tokenizer(output.source, directory, inputs.chat_template(run))
    export.write_json(directory / "stage.json", stage_facts(run) | dict(output.facts))
    is_score = isinstance(module, ScoreModel)
    card = Card(
        title=f"{run.config.job.name} · {run.config.stage.name}",
        summary=f"{'Scores answers' if is_score else 'Answers prompts'}. Output of stage `{run.config.stage.name}` "
        f"({run.config.stage.type}), attempt {run.config.attempt}.",
        metrics=output.facts.get("metrics", {}),
        inputs=output.facts.get("inputs", {}),
        loading=LOAD_SCORE if is_score else LOAD_MODEL,
    )
    (directory / "README.md").write_text(card.text(), "utf-8")


def stage_facts(run: Run) -> dict[str, Any]:
    """What every `stage.json` says about its origin."""
    config = run.config
    return {
        "job": config.job.name,
        "stage": config.stage.name,
        "type": str(config.stage.type),
        "attempt": config.attempt,
        "seed": config.seed,
        "runDigest": run.digest,
        "config": config.config.to_wire(),
    }


def _check_values(module: LanguageModel | ScoreModel, output: ModelOutput) -> Tensor:
    """Logits after the last token of each row (b, v), or its score (b,): on the CPU, in fp32."""
    device = next(module.parameters()).device
    ids, mask = _padded(output.check_ids, output.pad_id, device)
    positions = torch.arange(ids.shape[1], device=device).expand_as(ids)
    with torch.no_grad():
        if isinstance(module, ScoreModel):
            return (last_token(module(ids, mask, positions), mask).float().cpu() + module.mean) * output.head_scale

        def last_logits(hidden_bth: Tensor, head: Head) -> Tensor:
            last_bh = hidden_bth[torch.arange(len(ids)), mask.sum(dim=1) - 1]
            logits: Tensor = head(last_bh)
            return logits.float().cpu()

        found: Tensor = module(ids, mask, positions, last_logits)
        return found


def _compare(directory: Path, dtype: torch.dtype, device: torch.device, is_score: bool, output: ModelOutput, expected: Tensor) -> None:
    """Load what was written as its users will, in the precision that `expected` was computed in."""
    reloaded = load.load_score_model(directory, dtype) if is_score else load.load_model(directory, dtype)
    module = ScoreModel(reloaded.to(device)) if is_score else LanguageModel(reloaded.to(device))
    difference = deviation(_check_values(module, replace(output, head_scale=1.0)), expected)
    stored = load.torch_dtype(load.read_config(directory)["dtype"].replace("float32", "fp32").replace("bfloat16", "bf16"))
    if not difference <= TOLERANCE[stored]:
        raise InternalError(f"{directory}: reloaded, its outputs differ by {difference:.3g} from those of the trained model")


def deviation(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in units of the root mean square of what was expected, or of 1 where that is smaller.

    The largest difference would grow with the vocabulary.
    """
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1.0))


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor([int(token) for token in row], device=device)
        mask[i, : len(row)] = 1
    return ids, mask
