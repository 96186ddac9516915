"""Quantize: store the weights of a finished model in 4 or 8 bits with bitsandbytes, and measure what that cost.

1. The model is measured as it is: perplexity of the answers of held-out conversations.
2. Every linear layer but the head is quantized: `nf4` (4-bit normal float with double quantization, QLoRA, arXiv:2305.14314, section 3)
   or `int8` (LLM.int8(), arXiv:2208.07339). Embeddings, norms and the head stay in bf16.
3. What was written is loaded again from disk, and only that is measured: its weights must be those that were written (rules O4, O6), its
   size must be what the format promises (rule O5), and its perplexity may grow by `maxPerplexityIncrease` at most.

The last gate is checked when the output is complete (rule O8): a model that misses it is kept, and ends the job. Weights are compared, not
logits: the first 4-bit forward on a CPU differs from later ones by 0.3 % (measured).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.stages import Quantize
from rlhf_trainer.data import packing
from rlhf_trainer.data.collate import pad_conversations
from rlhf_trainer.data.order import spread
from rlhf_trainer.data.rows import ConversationRow
from rlhf_trainer.data.store import PreparedDataset
from rlhf_trainer.errors import DataError, GateFailed, InternalError
from rlhf_trainer.models import export, load
from rlhf_trainer.models.heads import LanguageModel
from rlhf_trainer.models.quantized import error_of, expected_bytes, load_quantized, quantization_config, stored_bytes, stored_tensors
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.rl.losses import lm_loss
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import inputs, outputs, setup
from rlhf_trainer.stages.card import Card
from rlhf_trainer.state import manifest
from rlhf_trainer.strategy.plain import PlainStrategy

BATCH_ROWS = 32
SIZE_TOLERANCE = 0.02
"""Rule O5: the file is what the format promises, within 2 %."""
MAX_WEIGHT_ERROR = 0.25
"""Rule O6: Gaussian weights have 0.092 (nf4) and 0.008 (int8), outliers add to it; far more means another model was written."""
NUM_PIECES = 4


def run(run: Run) -> StageResult:
    """Quantize one model. One process.

    Raises:
        DataError: there are no rows for the gate.
        GateFailed: perplexity grew by more than `maxPerplexityIncrease`. The output is complete.
        InternalError: what was written is not what was quantized, or has another size than the format promises.
    """
    config = run.config.config
    assert isinstance(config, Quantize)
    source = inputs.model_directory(run, "model")
    data = inputs.dataset(run, "evalDataset", "conversations")
    rows = gate_rows(config, data)
    device = PlainStrategy(run).world.device
    with Reporter(run) as reporter:
        reporter.plan(NUM_PIECES)
        reporter.enter("evaluating")
        original = load.load_model(source, torch.bfloat16 if device.type == "cuda" else torch.float32).to(device)
        before = perplexity(original, rows, data.pad_id)
        reporter.step(1, {"perplexity_before": before})
        run.stop_if_requested(1)
        written = _write(run, config, source, data)
        reporter.step(2, {})
        run.stop_if_requested(2)
        metrics = _check(run, config, source, original, written)
        del original
        reporter.step(3, metrics)
        quantized = load.load_model(run.output / "model", torch.bfloat16)
        metrics |= _measure(run, quantized, source, data, rows, before)
        digest = _complete(run, data, metrics)
        reporter.step(NUM_PIECES, metrics)
    _check_gate(config, metrics)
    return StageResult(output_digest=digest, step=NUM_PIECES, metrics=metrics)


def gate_rows(config: Quantize, data: PreparedDataset[ConversationRow]) -> list[ConversationRow]:
    """The rows that the gate is measured on: held out, or any of a dataset that was named for the gate alone.

    Raises:
        DataError: the rows of an earlier SFT stage were meant, and all of them were trained on.
    """
    rows = data.held_out or data.eval
    if not rows and config.eval_dataset is not None:
        rows = data.train
    if not rows:
        raise DataError(
            "quantize.maxPerplexityIncrease: the dataset of the SFT stage has 0 held-out rows, must have at least 1",
            hint="raise sft.evalFraction, or name rows in quantize.evalDataset",
        )
    return rows.take(spread(len(rows), config.max_eval_rows))


def perplexity(hf: nn.Module, rows: Sequence[ConversationRow], pad_id: int) -> float:
    """exp of the mean cross-entropy of all answer tokens of the rows."""
    module, device = LanguageModel(hf), next(hf.parameters()).device
    total, num_labels = 0.0, 0
    with torch.no_grad():
        for group in packing.micro_batches([len(row.input_ids) for row in rows], BATCH_ROWS):
            batch = pad_conversations([rows[i] for i in group], pad_id).to(device)
            labels = batch.labels
            loss = module(
                batch.input_ids,
                batch.attention_mask,
                batch.position_ids,
                lambda hidden, head, labels=labels: lm_loss(hidden, labels, 1, head=head),
            )
            total += float(loss)
            num_labels += batch.num_labels
    return math.exp(total / max(num_labels, 1))


def _write(run: Run, config: Quantize, source: Path, data: PreparedDataset[Any]) -> dict[str, Tensor]:
    """Quantize and save. Returns the tensors as they are in memory, to compare with those on disk."""
    directory = run.output / "model"
    model = load_quantized(source, quantization_config(config.method, double_quant=config.double_quant is not False))
    model.save_pretrained(directory, safe_serialization=True, max_shard_size=export.MAX_SHARD_BYTES)
    export.copy_tokenizer(source, directory, inputs.chat_template(run))
    export.write_generation_config(directory, stop_ids=data.stop_ids, pad_id=data.pad_id)
    return stored_tensors(model)


def _check(run: Run, config: Quantize, source: Path, original: nn.Module, written: Mapping[str, Tensor]) -> dict[str, float]:
    """Size, and the bytes on disk against those in memory."""
    directory = run.output / "model"
    reloaded = load.load_model(directory, torch.bfloat16)
    for name, tensor in stored_tensors(reloaded).items():
        if name not in written or not torch.equal(tensor, written[name]):
            raise InternalError(f"{directory}: reloaded, {name} is not what was quantized")
    size, expected = stored_bytes(directory), expected_bytes(reloaded, config.method, double_quant=config.double_quant is not False)
    if abs(size - expected) > SIZE_TOLERANCE * expected:
        raise InternalError(f"{directory}: {size} bytes of weights, {config.method} of this model has {expected} ± {SIZE_TOLERANCE:.0%}")
    error = error_of(original, reloaded)
    if error > MAX_WEIGHT_ERROR:
        raise InternalError(f"{directory}: weights are {error:.1%} off the original ones, {config.method} is within {MAX_WEIGHT_ERROR:.0%}")
    return {"weight_bytes": float(size), "weight_bytes_before": float(stored_bytes(source)), "weight_error": error}


def _measure(
    run: Run, hf: Any, source: Path, data: PreparedDataset[Any], rows: Sequence[ConversationRow], before: float
) -> dict[str, float]:
    """Perplexity and exact match of the model as its users will load it."""
    perplexity(hf, rows[:1], data.pad_id)  # the first 4-bit forward on a CPU is not like the others
    began = time.monotonic()
    after = perplexity(hf, rows, data.pad_id)
    seconds = max(time.monotonic() - began, 1e-9)
    answers = setup.examiner(run, PlainStrategy(run), hf, source, data, setup.longest_answer(data)).measure(hf)
    return {
        "perplexity_before": before,
        "perplexity": after,
        "perplexity_increase": after / before - 1,
        "eval_loss": math.log(after),
        "tokens_per_second": sum(len(row.input_ids) for row in rows) / seconds,
        **answers,
    }


def _complete(run: Run, data: PreparedDataset[Any], metrics: dict[str, float]) -> str:
    directory = run.output / "model"
    facts = outputs.stage_facts(run) | {"metrics": metrics, "inputs": inputs.digests(run)}
    export.write_json(directory / "stage.json", facts)
    card = Card(
        title=f"{run.config.job.name} · {run.config.stage.name}",
        summary=f"Weights in {facts['config']['method']} by bitsandbytes; the configuration is inside config.json.",
        metrics=metrics,
        inputs=facts["inputs"],
        requires="bitsandbytes and accelerate",
    )
    (directory / "README.md").write_text(card.text(), "utf-8")
    metrics |= outputs.sizes(run)
    return manifest.write_manifest(run.output, "output", run, step=NUM_PIECES, inputs=inputs.digests(run), metrics=metrics)


def _check_gate(config: Quantize, metrics: Mapping[str, float]) -> None:
    increase = metrics["perplexity_increase"]
    if increase > config.max_perplexity_increase:
        raise GateFailed(
            f"quantize.maxPerplexityIncrease: perplexity grew by {increase:.1%}, at most {config.max_perplexity_increase:.1%} is allowed",
            hint="use int8 instead of nf4, or raise maxPerplexityIncrease; the output is kept",
        )
