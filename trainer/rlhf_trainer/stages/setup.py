"""What the training stages build before their first step: models in the job's precision, with adapters if it has LoRA, and optimizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_trainer.models import adapters, heads, load
from rlhf_trainer.models.heads import LanguageModel, ScoreModel
from rlhf_trainer.schedule import Schedule
from rlhf_trainer.stages.evaluate import Decoder, Examiner, choose_rows
from rlhf_trainer.strategy.base import OptimizerConfig

if TYPE_CHECKING:
    from torch import nn

    from rlhf_api.ppo import Optimization
    from rlhf_trainer.data.rows import ConversationRow
    from rlhf_trainer.data.store import PreparedDataset
    from rlhf_trainer.run import Run
    from rlhf_trainer.strategy.base import Strategy

T = TypeVar("T")

MAX_ANSWER_TOKENS = 512


def optimizer_config(run: Run, block: Optimization, peak: float, total_updates: int) -> OptimizerConfig:
    """AdamW and its schedule over all optimizer steps of the stage (rule F3)."""
    schedule = Schedule(
        peak=peak,
        total_steps=total_updates,
        warmup_fraction=block.warmup_fraction,
        kind=block.schedule,
        min_fraction=block.min_learning_rate_fraction,
    )
    betas = run.config.optimizer.betas
    return OptimizerConfig(schedule=schedule, betas=(betas[0], betas[1]), eps=run.config.optimizer.eps, weight_decay=block.weight_decay)


def language_model(run: Run, directory: Path, *, is_trained: bool = True, dropout: bool = False) -> LanguageModel:
    """The language model of a stage. Trained ones get the job's adapters and gradient checkpointing; dropout stays only where asked for."""
    model = run.config.model
    is_4bit = model.load_in_4bit and is_trained
    hf = load.load_model(directory, load.torch_dtype(model.precision), trust_remote_code=model.trust_remote_code, load_in_4bit=is_4bit)
    if is_trained:
        _make_trainable(run, hf, "CAUSAL_LM", dropout)
    if not dropout:
        heads.without_dropout(hf)
    return LanguageModel(hf)


def score_model(run: Run, directory: Path, *, is_trained: bool = True, head: str = "saved") -> ScoreModel:
    """The reward model or critic of a stage. `head`: `saved`, `new` (rule R2) or `zero` (rule P10). Never any dropout."""
    model = run.config.model
    is_4bit = model.load_in_4bit and is_trained
    hf = load.load_score_model(
        directory, load.torch_dtype(model.precision), trust_remote_code=model.trust_remote_code, load_in_4bit=is_4bit
    )
    if head == "new":
        heads.new_head(hf, run.config.seed)
    elif head == "zero":
        heads.zero_head(hf)
    if is_trained:
        _make_trainable(run, hf, "SEQ_CLS", dropout=False)
    heads.without_dropout(hf)
    return ScoreModel(hf, mean=score_mean(directory) if head == "saved" else 0.0)


def is_score_directory(directory: Path) -> bool:
    """True when the directory holds a score model: a language model has no trained `score` head."""
    architectures = load.read_config(directory).get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def score_mean(directory: Path) -> float:
    """What has to be subtracted from a score model's raw scores (rule R5); 0 when the model says nothing."""
    facts = directory / "stage.json"
    return float(json.loads(facts.read_text("utf-8")).get("mean", 0.0)) if facts.is_file() else 0.0


def examiner(run: Run, strategy: Strategy, module: nn.Module, directory: Path, data: PreparedDataset[Any], max_new_tokens: int) -> Examiner:
    """The examiner of this job's held-out rows."""
    rows = choose_rows(data.held_out, num_parameters=sum(p.numel() for p in module.parameters()), device=strategy.world.device.type)
    return Examiner(
        rows=rows,
        decoder=Decoder(directory, data.stop_ids),
        stop_ids=data.stop_ids,
        pad_id=data.pad_id,
        max_new_tokens=max_new_tokens,
        seed=run.config.seed,
        world=strategy.world,
    )


def longest_answer(data: PreparedDataset[ConversationRow]) -> int:
    """Tokens of the longest answer in a dataset, 512 at most: how far an evaluation generates.

    Training rows count too: their refusals may be longer than any right answer among the held-out ones. A conversation that ends with
    a question has none.
    """
    lengths = [split.lengths("input_ids") - split.lengths("prompt_ids") for split in (data.train, data.held_out)]
    return min(MAX_ANSWER_TOKENS, max([1, *(int(part.max()) for part in lengths if len(part))]))


def split_evenly(items: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive groups of at most `size` items.

    [1, 2, 3], 2 -> [[1, 2], [3]]
    """
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _make_trainable(run: Run, hf: Any, task_type: str, dropout: bool) -> None:
    lora = run.config.model.lora
    if lora is not None:
        adapters.add_adapter(hf, lora, seed=run.config.seed, task_type=task_type, dropout=None if dropout else 0.0)
    else:
        hf.requires_grad_(True)
    if run.config.plan.gradient_checkpointing:
        heads.checkpoint_activations(hf)
