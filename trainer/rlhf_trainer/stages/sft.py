"""SFT: teach a base model to answer, by cross-entropy on the answers of conversations (Ouyang et al. 2022, arXiv:2203.02155, step 1).

1. A window is `globalBatchSize` rows of one permutation an epoch; the last one of an epoch may be short (rules D8, F2).
2. Rows are packed into sequences of `maxLength` that cannot see each other (rule D7); only answer tokens are learned.
3. The loss is the sum over all labelled tokens of the window, divided by their number over all micro-batches and workers (rule F1). A mean
   for each micro-batch, as most trainers had it, gives tokens in short micro-batches more weight.
4. AdamW, warm-up, cosine (rule F3). Before the first step, about ten times a run, and at the end held-out rows are measured (rule F6).

Laptop: `rlhf run examples/tiny-chat.yaml`. Output: `model/`, with LoRA also `adapter/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_api.planning import steps
from rlhf_api.stages import SFT
from rlhf_trainer.data import packing
from rlhf_trainer.data.collate import ConversationBatch, pack_conversations, pad_conversations
from rlhf_trainer.data.order import Cursor, rank_share, spread
from rlhf_trainer.data.rows import ConversationRow
from rlhf_trainer.data.store import PreparedDataset
from rlhf_trainer.loop import Loop
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.rl.losses import lm_loss
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import inputs, outputs, setup
from rlhf_trainer.stages.evaluate import Examiner
from rlhf_trainer.stages.facts import Facts
from rlhf_trainer.strategy import select
from rlhf_trainer.strategy.base import Strategy, Trained

if TYPE_CHECKING:
    from rlhf_trainer.rl.chunks import Head

NUM_EVALUATIONS = 10
"""Evaluations during a run, by step number, so that a resumed run measures at the same steps."""
MAX_EVAL_ROWS = 256


def run(run: Run) -> StageResult:
    """Train one SFT stage to its end.

    Raises:
        StageError: see errors.py; what was reached is in the newest checkpoint.
    """
    config = run.config.config
    assert isinstance(config, SFT)
    strategy = select.build(run)
    source = inputs.model_directory(run, "init")
    data = inputs.dataset(run, "dataset", "conversations")
    cursor = Cursor(run.config.seed, len(data.train), config.global_batch_size, config.epochs)
    total_steps = steps.total_steps(len(data.train), config.global_batch_size, config.epochs, config.max_steps)
    module = setup.language_model(run, source, dropout=True)
    examiner = setup.examiner(run, strategy, module, source, data, setup.longest_answer(data))
    trained = strategy.prepare(module, setup.optimizer_config(run, config, config.learning_rate or 0.0, total_steps))
    facts = Facts({"dropped_rows": float(data.statistics.get("droppedRows", 0))})
    with Reporter(run) as reporter:
        loop = Loop(run, strategy, reporter, models={"model": trained}, parts={"cursor": cursor, "facts": facts}, total_steps=total_steps)
        stage = Stage(run, config, strategy, data, trained, loop, examiner)
        if not loop.resume():
            facts.add(stage.evaluate(thoroughly=True, is_base=True))
        while loop.step < total_steps and (window := cursor.next()) is not None:
            metrics = stage.step(window[1])
            loop.finish_step(metrics, data.train.row_ids(window[1]))
            if loop.step < total_steps and loop.step % -(-total_steps // NUM_EVALUATIONS) == 0:
                stage.evaluate(thoroughly=False)
        loop.finish()
        facts.add(stage.evaluate(thoroughly=True))
        output = outputs.ModelOutput(
            folder="model",
            source=source,
            stop_ids=data.stop_ids,
            pad_id=data.pad_id,
            check_ids=outputs.check_rows(data.train, "input_ids"),
            facts={"metrics": facts.metrics, "inputs": inputs.digests(run)},
        )
        return outputs.complete(run, strategy, loop, [(trained, output)], facts.metrics)


class Stage:
    """The steps of the algorithm. What decides a later step lives in the loop's models and parts, not here."""

    def __init__(
        self,
        run: Run,
        config: SFT,
        strategy: Strategy,
        data: PreparedDataset[ConversationRow],
        trained: Trained,
        loop: Loop,
        examiner: Examiner,
    ) -> None:
        self.run, self.config, self.strategy, self.data, self.trained = run, config, strategy, data, trained
        self.loop, self.reporter, self.examiner = loop, loop.reporter, examiner

    def step(self, ids: Any) -> dict[str, float]:
        """One optimizer step on a window of row ids. Returns its metrics, equal on all workers."""
        began = time.monotonic()
        world = self.strategy.world
        rows = self.data.train.take(rank_share(ids, world.rank, world.size))
        batches, waste = self.micro_batches(rows)
        num_labels = int(world.sum_number(sum(batch.num_labels for batch in batches)))
        losses: list[Tensor] = []
        report = self.loop.update(
            self.trained,
            batches,
            lambda batch: self._loss(batch, num_labels, losses),
            max_norm=self.config.gradient_clip,
            filler=None if batches else pad_conversations([self.data.train[0]], self.data.pad_id),
        )
        totals = torch.tensor(
            [sum(float(loss) for loss in losses[: len(batches)]), sum(len(row.input_ids) for row in rows), waste], dtype=torch.float64
        )
        loss, num_tokens, waste = world.all_sum(totals).tolist()
        seconds = max(time.monotonic() - began, 1e-9)
        return {
            "loss": loss,
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "tokens": num_tokens,
            "tokens_per_second": num_tokens / seconds,
            "padding_waste": waste / world.size,
        }

    def micro_batches(self, rows: Sequence[ConversationRow]) -> tuple[list[ConversationBatch], float]:
        """This worker's rows of a window as batches of `plan.microBatchSize` sequences, and the share of padding in them."""
        if not rows:
            return [], 0.0
        lengths = [len(row.input_ids) for row in rows]
        size = self.run.config.plan.micro_batch_size if self.strategy.capabilities().accumulation else len(rows)
        if not self.config.packing:
            groups = packing.micro_batches(lengths, size)
            batches = [pad_conversations([rows[i] for i in group], self.data.pad_id) for group in groups]
            return batches, packing.padding_waste(lengths, groups)
        bins = packing.pack(lengths, self.config.max_length)
        grouped = setup.split_evenly(bins, size)
        batches = [pack_conversations(rows, group, self.data.pad_id) for group in grouped]
        positions = sum(batch.input_ids.numel() for batch in batches)
        return batches, 1 - sum(lengths) / positions

    def _loss(self, batch: ConversationBatch, num_labels: int, losses: list[Tensor] | None = None) -> Tensor:
        batch = batch.to(self.strategy.world.device)
        loss: Tensor = self.trained.model(batch.input_ids, batch.attention_mask, batch.position_ids, _loss_on(batch.labels, num_labels))
        if losses is not None:
            losses.append(loss.detach())
        return loss

    def evaluate(self, *, thoroughly: bool, is_base: bool = False) -> dict[str, float]:
        """Held-out loss, and answers to held-out prompts: all, or sixteen (rule F6). Names of the base model's begin with `base_`."""
        self.reporter.enter("evaluating")
        metrics = {}
        with self.strategy.rollout_weights(self.trained) as module:
            hf: Any = module.hf
            if (loss := self._eval_loss(module)) is not None:
                metrics["eval_loss"] = loss
            metrics |= self.examiner.measure(hf) if thoroughly else self.examiner.glance(hf)
        if is_base:  # not to be taken for what the stage has reached
            metrics = {f"base_{name}": value for name, value in metrics.items()}
        self.reporter.update(metrics, is_judged=not is_base)
        self.reporter.samples(self.loop.step, self.examiner.samples)
        self.reporter.enter("training")
        return metrics

    def _eval_loss(self, module: Any) -> float | None:
        """Mean cross-entropy of the held-out rows' answer tokens; None without such rows."""
        world = self.strategy.world
        rows = self.data.eval.take(spread(len(self.data.eval), MAX_EVAL_ROWS)[world.rank :: world.size])
        totals = torch.zeros(2, dtype=torch.float64)
        for group in packing.micro_batches([len(row.input_ids) for row in rows], max(self.run.config.plan.micro_batch_size, 8)):
            batch = pad_conversations([rows[i] for i in group], self.data.pad_id).to(world.device)
            loss = module(batch.input_ids, batch.attention_mask, batch.position_ids, _loss_on(batch.labels, 1))
            totals += torch.tensor([float(loss), batch.num_labels], dtype=torch.float64)
        total, num_labels = world.all_sum(totals).tolist()
        return total / num_labels if num_labels else None


def _loss_on(labels: Tensor, num_labels: int) -> Callable[[Tensor, Head], Tensor]:
    return lambda hidden_bth, head: lm_loss(hidden_bth, labels, num_labels, head=head)
