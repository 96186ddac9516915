"""RewardModel: learn to score answers from pairs of a better and a worse one (Ouyang et al. 2022, arXiv:2203.02155, step 2).

1. The backbone of the SFT model gets a scalar head, N(0, 1/√(h+1)), read at the last real token (rules R1, R2).
2. Better and worse answers of a pair pass in one forward, without dropout (rule R4); the loss is −log σ(better − worse − margin) in
   fp32 (rule R3), plus `centerCoefficient` · mean((better + worse)²), which keeps scores near zero (Eisenstein et al. 2023).
3. At the end scores are shifted and scaled to mean 0 and deviation 1 over the training answers (rule R5): the scale goes into the head,
   the mean into `stage.json`. So `kl.coefficient` of PPO means the same for every reward model.
4. The gate `minAccuracy` is checked when the output is complete (rule O8): a weak model is kept, and ends the job.

Departure from the paper: pairs are shuffled as single rows. The paper puts all pairs of a prompt into one batch, which needs ranked lists.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_api.planning import steps
from rlhf_api.stages import RewardModel
from rlhf_trainer.data import packing
from rlhf_trainer.data.collate import PreferenceBatch, pad_preferences
from rlhf_trainer.data.order import Cursor, rank_share, spread
from rlhf_trainer.data.rows import PreferenceRow
from rlhf_trainer.data.store import PreparedDataset
from rlhf_trainer.errors import DataError, GateFailed
from rlhf_trainer.loop import Loop
from rlhf_trainer.models.heads import ScoreModel, last_token
from rlhf_trainer.report.metrics import metric_name
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.rl.losses import pairwise_loss
from rlhf_trainer.rollout.generate import position_ids
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import evaluate, inputs, outputs, setup
from rlhf_trainer.stages.facts import Facts
from rlhf_trainer.strategy import select
from rlhf_trainer.strategy.base import Strategy, Trained

NUM_EVALUATIONS = 10
MAX_EVAL_ROWS, MIN_GATE_ROWS = 1024, 256
"""Held-out pairs of the evaluation at the end, and how many of them also a large model on a CPU is measured on: the standard error of
`minAccuracy` is then 2 points at 0.9."""
GLANCE_ROWS = 128
"""Held-out pairs of the evaluations during a run."""
MAX_NORMALIZED_ROWS = 768
"""Pairs whose scores give mean and deviation (rule R5): enough for a relative error of 2 %."""
MAX_SOURCES = 8
"""Sources with an accuracy of their own, the largest ones: the name of a source is data, and a data set may have thousands."""


def run(run: Run) -> StageResult:
    """Train one RewardModel stage to its end.

    Raises:
        DataError: `minAccuracy` has no held-out pairs to be measured on.
        GateFailed: held-out accuracy is below `minAccuracy`. The output is complete.
        StageError: see errors.py; what was reached is in the newest checkpoint.
    """
    config = run.config.config
    assert isinstance(config, RewardModel)
    strategy = select.build(run)
    source = inputs.model_directory(run, "init")
    data = inputs.dataset(run, "dataset", "preference")
    _check(config, data)
    cursor = Cursor(run.config.seed, len(data.train), config.global_batch_size, config.epochs)
    total_steps = steps.total_steps(len(data.train), config.global_batch_size, config.epochs, config.max_steps)
    head = "saved" if setup.is_score_directory(source) else "new"
    module = setup.score_model(run, source, head=head)
    trained = strategy.prepare(module, setup.optimizer_config(run, config, config.learning_rate or 0.0, total_steps))
    with Reporter(run) as reporter:
        facts = Facts({"dropped_rows": float(data.statistics.get("droppedRows", 0))})
        loop = Loop(run, strategy, reporter, models={"model": trained}, parts={"cursor": cursor, "facts": facts}, total_steps=total_steps)
        stage = Stage(run, config, strategy, data, trained, loop)
        loop.resume()
        while loop.step < total_steps and (window := cursor.next()) is not None:
            metrics = stage.step(window[1])
            loop.finish_step(metrics, data.train.row_ids(window[1]))
            if loop.step < total_steps and loop.step % -(-total_steps // NUM_EVALUATIONS) == 0:
                stage.evaluate(GLANCE_ROWS)
        loop.finish()
        facts.add(stage.evaluate(MAX_EVAL_ROWS, MIN_GATE_ROWS))
        result = stage.complete(facts.metrics, source)
    _check_gate(config, result.metrics)
    return result


def _check(config: RewardModel, data: PreparedDataset[PreferenceRow]) -> None:
    """Before the training: a gate that nothing can measure would only be noticed at its end."""
    if config.min_accuracy and not data.held_out:
        raise DataError(
            f"rewardModel.minAccuracy: {config.min_accuracy} needs held-out pairs, the dataset has none",
            hint="add pairs, raise evalFraction, add a split named test, or set minAccuracy to 0",
        )


class Stage:
    """The steps of the algorithm. What decides a later step lives in the loop's models and parts, not here."""

    def __init__(
        self, run: Run, config: RewardModel, strategy: Strategy, data: PreparedDataset[PreferenceRow], trained: Trained, loop: Loop
    ) -> None:
        self.run, self.config, self.strategy, self.data, self.trained, self.loop = run, config, strategy, data, trained, loop

    def step(self, ids: Any) -> dict[str, float]:
        """One optimizer step on a window of pair ids. Returns its metrics, equal on all workers."""
        began = time.monotonic()
        world = self.strategy.world
        rows = self.data.train.take(rank_share(ids, world.rank, world.size))
        batches = self._micro_batches(rows)
        sums = torch.zeros(4, dtype=torch.float64)  # loss, right pairs, margin, tokens
        seen = 0

        def loss_of(batch: PreferenceBatch) -> Tensor:
            nonlocal seen
            chosen, rejected, margins = _score_pairs(self.trained.model, batch, world.device)
            loss = pairwise_loss(chosen, rejected, margins, self.config.center_coefficient, num_global=len(ids))
            if seen < len(batches):
                seen += 1
                right = _num_right(chosen.detach(), rejected.detach())
                difference = (chosen - rejected).detach().sum()
                sums.add_(torch.tensor([float(loss.detach()), right, float(difference), float(batch.attention_mask.sum())]))
            return loss

        filler = None if batches else pad_preferences([self.data.train[0]], self.data.pad_id)
        report = self.loop.update(self.trained, batches, loss_of, max_norm=self.config.gradient_clip, filler=filler)
        loss, right, margin, num_tokens = world.all_sum(sums).tolist()
        return {
            "loss": loss,
            "train_accuracy": right / len(ids),
            "margin": margin / len(ids),
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "tokens": num_tokens,
            "tokens_per_second": num_tokens / max(time.monotonic() - began, 1e-9),
        }

    def evaluate(self, max_rows: int, at_least: int = evaluate.MIN_ROWS) -> dict[str, float]:
        """Held-out accuracy (ties count half), margin, and how much of a score is length (rule R6).

        On `max_rows` pairs; on a CPU a large model is measured on fewer, but on `at_least` so many.
        """
        self.loop.reporter.enter("evaluating")
        rows = self.data.held_out
        num_parameters = sum(p.numel() for p in self.trained.module.parameters())
        device = self.strategy.world.device.type
        limit = evaluate.affordable_rows(max_rows, num_parameters=num_parameters, device=device, at_least=at_least)
        pairs = self._scores(rows.take(spread(len(rows), limit)))
        metrics = pair_metrics(pairs) if pairs else {}
        self.loop.reporter.update(metrics)
        self.loop.reporter.enter("training")
        return metrics

    def complete(self, metrics: Mapping[str, float], source: Any) -> StageResult:
        """Normalise, write and prove the output."""
        module: Any = self.trained.module
        # An earlier reward model brings a mean that is subtracted from its scores: what is measured here comes on top of it.
        scale, mean, raw = 1.0, module.mean, {}
        if self.config.normalize:
            shift, deviation = self._moments()
            mean += shift
            scale, raw = 1.0 / deviation, {"score_mean_raw": mean, "score_deviation_raw": deviation}
        output = outputs.ModelOutput(
            folder="model",
            source=source,
            stop_ids=self.data.stop_ids,
            pad_id=self.data.pad_id,
            check_ids=outputs.check_rows(self.data.train, "chosen_ids"),
            facts={"metrics": {**metrics, **raw}, "inputs": inputs.digests(self.run), "mean": mean * scale},
            head_scale=scale,
        )
        return outputs.complete(self.run, self.strategy, self.loop, [(self.trained, output)], {**metrics, **raw})

    def _moments(self) -> tuple[float, float]:
        """Mean and deviation of the scores of training answers, better and worse ones alike."""
        rows = self.data.train
        pairs = self._scores(rows.take(spread(len(rows), MAX_NORMALIZED_ROWS)))
        scores = torch.tensor([score for pair in pairs for score in (pair["chosen"], pair["rejected"])], dtype=torch.float64)
        deviation = float(scores.std()) if len(scores) > 1 else 0.0
        if not deviation > 1e-6:
            raise DataError(
                f"all {len(scores)} training answers get the same score: nothing was learned that could be normalised",
                hint="raise rewardModel.learningRate or maxSteps, or set rewardModel.normalize to false",
            )
        return float(scores.mean()), deviation

    def _scores(self, rows: Sequence[PreferenceRow]) -> list[dict[str, Any]]:
        """Both scores of every pair, in order, on every worker."""
        world = self.strategy.world
        mine = rows[world.rank :: world.size]
        lengths = [len(row.chosen_ids) + len(row.rejected_ids) for row in mine]
        found: list[dict[str, Any]] = [{} for _ in mine]
        with self.strategy.rollout_weights(self.trained) as module:
            for group in packing.micro_batches(lengths, max(self.run.config.plan.micro_batch_size, 16)):
                batch = pad_preferences([mine[i] for i in group], self.data.pad_id)
                chosen, rejected, _ = _score_pairs(module, batch, world.device)
                for i, better, worse in zip(group, chosen.tolist(), rejected.tolist(), strict=True):
                    found[i] = {"chosen": better, "rejected": worse, "source": mine[i].source} | _answer_lengths(mine[i])
        gathered = world.gather(found)
        return [gathered[i % world.size][i // world.size] for i in range(len(rows))]

    def _micro_batches(self, rows: Sequence[PreferenceRow]) -> list[PreferenceBatch]:
        if not rows:
            return []
        can_accumulate = self.strategy.capabilities().accumulation
        size = self.run.config.plan.micro_batch_size if can_accumulate else len(rows)
        lengths = [max(len(row.chosen_ids), len(row.rejected_ids)) for row in rows]
        return [pad_preferences([rows[i] for i in group], self.data.pad_id) for group in packing.micro_batches(lengths, size)]


def pair_metrics(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracy (ties ½), margin, Pearson correlation of score and answer length, and accuracy for each large source (rule R6)."""
    chosen = torch.tensor([pair["chosen"] for pair in pairs], dtype=torch.float64)
    rejected = torch.tensor([pair["rejected"] for pair in pairs], dtype=torch.float64)
    lengths = torch.tensor([[pair["chosen_tokens"], pair["rejected_tokens"]] for pair in pairs], dtype=torch.float64).flatten()
    metrics = {
        "accuracy": _num_right(chosen, rejected) / len(pairs),
        "margin": float((chosen - rejected).mean()),
        "length_correlation": pearson(torch.stack([chosen, rejected], dim=1).flatten(), lengths),
    }
    names = [metric_name(f"accuracy_{pair['source']}") for pair in pairs]
    for name in sorted(name for name, _ in Counter(names).most_common(MAX_SOURCES)):
        own = torch.tensor([each == name for each in names])
        metrics[name] = _num_right(chosen[own], rejected[own]) / int(own.sum())
    return metrics


def pearson(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation coefficient; 0 when one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float((x * y).sum()) / norm if norm > 0 else 0.0


def _score_pairs(model: Any, batch: PreferenceBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    batch = batch.to(device)
    values_bt = model(batch.input_ids, batch.attention_mask, position_ids(batch.attention_mask))
    chosen, rejected = last_token(values_bt, batch.attention_mask).chunk(2)
    return chosen, rejected, batch.margins


def _num_right(chosen: Tensor, rejected: Tensor) -> float:
    return float((chosen > rejected).sum()) + 0.5 * float((chosen == rejected).sum())


def _answer_lengths(row: PreferenceRow) -> dict[str, int]:
    return {"chosen_tokens": len(row.chosen_ids) - len(row.prompt_ids), "rejected_tokens": len(row.rejected_ids) - len(row.prompt_ids)}


def _check_gate(config: RewardModel, metrics: Mapping[str, float]) -> None:
    if not config.min_accuracy:
        return
    accuracy = metrics["accuracy"]  # there are held-out pairs, or the stage would not have started
    if accuracy < config.min_accuracy:
        raise GateFailed(
            f"rewardModel.minAccuracy: held-out accuracy {accuracy:.3f} must be at least {config.min_accuracy}",
            hint="more or cleaner pairs, more epochs, or a lower minAccuracy; the output is kept",
        )


__all__ = ["ScoreModel", "pair_metrics", "pearson", "run"]
