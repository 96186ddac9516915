"""The rollouts of PPO: answers to a window of prompts, judged, with the metrics that show whether the policy stays sane."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from rlhf_api.ppo import PPO
from rlhf_trainer.data import answers as checker
from rlhf_trainer.data.order import rank_share
from rlhf_trainer.data.rows import PromptRow
from rlhf_trainer.data.store import PreparedDataset
from rlhf_trainer.errors import Diverged
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.rl import kl
from rlhf_trainer.rl.masks import masked
from rlhf_trainer.rl.rewards import RunningMoments
from rlhf_trainer.rollout import limits
from rlhf_trainer.rollout.generate import GenerateConfig
from rlhf_trainer.rollout.philox import row_seed
from rlhf_trainer.run import Run
from rlhf_trainer.stages import experience, setup
from rlhf_trainer.stages.experience import Answers
from rlhf_trainer.stages.ppo_models import PPOModels
from rlhf_trainer.stages.tally import Tally
from rlhf_trainer.strategy.base import Strategy

MAX_MISMATCH_FP32, MEAN_MISMATCH_BF16 = 1e-4, 0.05
"""Rule G3: difference between the log-probability at sampling and the teacher-forced one. fp32: of the worst token. bf16: of the
mean token, because the rounding of a single one grows with its logits (0.14 for a sound Gemma 3); a wrong temperature moves all."""


class Rollouts:
    """Turns windows of prompt ids into judged answers."""

    def __init__(
        self,
        run: Run,
        config: PPO,
        strategy: Strategy,
        models: PPOModels,
        prompts: PreparedDataset[PromptRow],
        reporter: Reporter,
        controller: kl.FixedKL,
        moments: RunningMoments,
    ) -> None:
        self.run, self.config, self.strategy, self.models, self.prompts = run, config, strategy, models, prompts
        self.reporter, self.controller = reporter, controller
        self.moments = moments if config.normalize_reward else None
        hf: Any = models.policy.module.hf
        self.sampling = GenerateConfig(
            max_new_tokens=config.max_new_tokens,
            stop_ids=prompts.stop_ids,
            pad_id=prompts.pad_id,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            max_rows=limits.rows_that_fit(
                hf.config,
                config.max_prompt_length + config.max_new_tokens,
                limits.bytes_per_number(hf.dtype, strategy.world.device),
            ),
        )
        source = models.policy_source
        self.examiner = setup.examiner(run, strategy, models.policy.module, source, prompts, config.max_new_tokens)
        self._was_checked = False

    def roll_out(self, step: int, ids: Any) -> tuple[list[list[Answers]], dict[str, float]]:
        """Answer and judge one window. Returns this worker's micro-batches of each minibatch, and metrics equal on all workers.

        Raises:
            Diverged: the mean KL of an answer is above `maxKl`.
        """
        self.reporter.enter("rollout")
        began = time.monotonic()
        minibatches = self._answer(step, ids)
        answered = time.monotonic()
        batches = [batch for minibatch in minibatches for batch in minibatch]
        self._judge(batches)
        experience.set_rewards(batches, self.config, self.controller.coef, self.moments)
        metrics = self._metrics(batches)
        metrics |= {"rollout_seconds": answered - began, "score_seconds": time.monotonic() - answered}
        self._guard(step, metrics)
        return minibatches, metrics

    def steer(self, mean_kl: float, num_answers: int) -> dict[str, float]:
        """Move the KL coefficient after a rollout (rule P13)."""
        return {"kl_coef": self.controller.update(mean_kl, num_answers)}

    def examine(self, step: int, *, thoroughly: bool) -> dict[str, float]:
        """Held-out prompts, by the checker that is never the reward model: greedy answers, and thoroughly also sampled ones."""
        self.reporter.enter("evaluating")
        with self.strategy.rollout_weights(self.models.policy) as module:
            hf: Any = module.hf
            metrics = self.examiner.measure(hf, with_sampled=thoroughly)
        self.reporter.update(metrics)
        self.reporter.samples(step, self._judged_samples())
        return metrics

    def _judged_samples(self) -> list[dict[str, Any]]:
        """The first worker's samples with `score`, `score_normalized` and `kl` (nats of the whole answer). All workers together."""
        world = self.strategy.world
        shown: list[list[int]] = world.share([answer.ids for answer in self.examiner.shown])
        if not shown:
            return []
        # the first worker answered every size-th row; all judge its answers, because sharded weights meet in every forward pass
        rows = self.examiner.rows[:: world.size][: len(shown)]
        answers = experience.given_answers(shown, self.prompts.pad_id, world.device)
        size = self.run.config.plan.micro_batch_size
        batches = experience.micro_batches(rows, answers, size, self.sampling)  # type: ignore[arg-type]  # PPO's rows are prompts
        self._judge(batches)
        judged: dict[int, dict[str, float]] = {}
        for batch in batches:
            scores = batch.raw_scores if self.moments is None else self.moments.normalize(batch.raw_scores)
            drift = masked(kl.estimate(batch.old_log_probs, batch.ref_log_probs, "k1"), batch.mask).sum(dim=1)
            figures = zip(batch.raw_scores.tolist(), scores.tolist(), drift.tolist(), strict=True)
            for row, (raw, normalized, nats) in zip(batch.rows, figures, strict=True):
                judged[id(row)] = {"score": raw, "score_normalized": normalized, "kl": nats}
        # on other workers the lines are of their own answers, and nobody writes them
        return [line | judged[id(row)] for row, line in zip(rows, self.examiner.samples, strict=False)]

    def _answer(self, step: int, ids: Any) -> list[list[Answers]]:
        world = self.strategy.world
        share = rank_share(ids, world.rank, world.size)
        is_spare = len(share) == 0  # a short last window: this worker answers one prompt that counts for nothing
        rows = self.prompts.train.take(ids[:1] if is_spare else share)
        seeds = [row_seed(self.run.config.seed, step, row.row_id) for row in rows]
        with self.strategy.rollout_weights(self.models.policy) as module:
            hf: Any = module.hf
            generated = experience.generate_answers(hf, rows, self.sampling, seeds, world.device)
        self.reporter.alive()
        size = self.run.config.plan.micro_batch_size if self.strategy.capabilities().accumulation else len(rows)
        minibatches = []
        for number in range(-(-len(ids) // self.config.minibatch_size)):
            # the global position decides, so a minibatch has the same rows under any number of workers
            local = [i for i in range(len(rows)) if (world.rank + i * world.size) // self.config.minibatch_size == number]
            local = local if not is_spare else ([0] if number == 0 else [])
            part = _select(generated, local)
            minibatches.append(experience.micro_batches([rows[i] for i in local], part, size, self.sampling, is_spare=is_spare))
        return minibatches

    def _judge(self, batches: Sequence[Answers]) -> None:
        """Everything that is computed once a rollout, without gradients."""
        temperature = self.config.temperature
        # Sharded weights meet in every forward pass, and a short last window gives the workers different numbers of micro-batches:
        # one with fewer repeats its last one, on a copy that takes the results with it.
        num_missing = self.strategy.world.agree(len(batches)) - len(batches)
        rounds = [*batches, *(copy.copy(batches[-1]) for _ in range(num_missing))]
        with torch.no_grad():
            for batch in rounds:
                batch.raw_scores = experience.raw_scores(self.models.reward.model, batch)
                batch.values = experience.values(self.models.critic.model, batch)
                batch.old_log_probs, batch.entropy = experience.log_probs(self.models.policy.model, batch, temperature, with_entropy=True)
            with self.models.reference() as reference:
                for batch in rounds:
                    batch.ref_log_probs, _ = experience.log_probs(reference, batch, temperature)

    def _metrics(self, batches: Sequence[Answers]) -> dict[str, float]:
        tally = Tally()
        for batch in batches:
            counted = batch.is_counted
            num_rows, num_tokens = int(counted.sum()), int(batch.mask.sum())
            for kind in kl.ESTIMATORS:
                total = masked(kl.estimate(batch.old_log_probs, batch.ref_log_probs, kind), batch.mask).sum()
                tally.add("kl_mean" if kind == "k1" else f"kl_{kind}", total, num_rows)
            tally.add("reward_mean", batch.raw_scores[counted].sum(), num_rows)
            tally.add("reward_norm", batch.scores[counted].sum(), num_rows)
            tally.add("answer_tokens_mean", num_tokens, num_rows)
            tally.add("eos_fraction", batch.has_stop[counted].sum(), num_rows)
            tally.add("entropy", masked(batch.entropy, batch.mask).sum(), num_tokens)
            for name, values in (("return", batch.returns), ("error", batch.returns - batch.values)):
                tally.add(f"_{name}", masked(values, batch.mask).sum(), num_tokens)
                tally.add(f"_{name}_squared", masked(values, batch.mask).square().sum(), num_tokens)
            mismatch = masked(batch.old_log_probs - batch.sampled_log_probs, batch.mask).abs()
            tally.highest("sampling_mismatch", mismatch.max())
            tally.add("sampling_mismatch_mean", mismatch.sum(), num_tokens)
        self._tally_matches(tally, batches)
        found = tally.over(self.strategy.world)
        metrics = {name: value for name, value in found.items() if not name.startswith("_")}
        variance = found["_return_squared"] - found["_return"] ** 2
        left = found["_error_squared"] - found["_error"] ** 2
        return metrics | {
            "vf_explained_var": 1 - left / variance if variance > 1e-12 else 0.0,
            # an advantage before whitening is the error of the critic's estimate: GAE returns are advantages plus values
            "advantage_mean": found["_error"],
            "advantage_std": math.sqrt(max(left, 0.0)),
            "kl_coef": self.controller.coef,
        }

    def _tally_matches(self, tally: Tally, batches: Sequence[Answers]) -> None:
        """How many sampled answers are right, and how often the reward model prefers a right one to a wrong one (`reward_agreement`).

        For people, who see reward hacking by it. No reward is computed from it.
        """
        scores: dict[bool, list[float]] = {True: [], False: []}
        for batch in batches:
            rows = zip(batch.rows, batch.tokens.tolist(), batch.is_counted.tolist(), batch.raw_scores.tolist(), strict=True)
            for row, ids, is_counted, score in rows:
                if row.answer is not None and is_counted:
                    text = self.examiner.decoder.text(ids)
                    is_right = checker.is_exact_match(text, row.answer)
                    scores[is_right].append(score)
                    tally.add("rollout_match", float(is_right))
                    tally.add("rollout_refusals", float(checker.is_refusal(text)))
        right, wrong = torch.tensor(scores[True]), torch.tensor(scores[False])
        tally.add("reward_agreement", (right[:, None] > wrong[None, :]).sum(), len(right) * len(wrong))

    def _guard(self, step: int, metrics: dict[str, float]) -> None:
        is_truncated = self.config.top_k > 0 or self.config.top_p < 1
        if not self._was_checked and not is_truncated:
            problem = sampling_problem(self.run.config.model.precision, metrics["sampling_mismatch"], metrics["sampling_mismatch_mean"])
            if problem is not None:
                self.reporter.event("SamplingMismatch", problem)
        self._was_checked = True
        refuse_divergence(step, metrics["kl_mean"], self.config.max_kl)


def _select(generated: Any, rows: list[int]) -> Any:
    chosen = torch.tensor(rows, dtype=torch.int64, device=generated.tokens.device)
    return type(generated)(generated.tokens[chosen], generated.logprobs[chosen], generated.mask[chosen])


def sampling_problem(precision: str, largest: float, mean: float) -> str | None:
    """What to report when the log-probabilities of a rollout are not those of the update (rule G3); None when they are.

    `largest` and `mean` are over the absolute differences of all answer tokens, in nats.
    """
    kind, found, limit = ("largest", largest, MAX_MISMATCH_FP32) if precision == "fp32" else ("mean", mean, MEAN_MISMATCH_BF16)
    if found <= limit:
        return None
    return f"log-probabilities at sampling and update differ: {kind} difference {found:.2g} nats, limit {limit:g} ({precision})"


def refuse_divergence(step: int, kl_mean: float, max_kl: float) -> None:
    """The guard of rule P19: what `maxKl` refuses, and NaN, which is above no limit and no controller can use.

    Raises:
        Diverged: the mean KL of an answer, in nats, is not finite or above `max_kl` (0 = no limit).
    """
    if not math.isfinite(kl_mean):
        raise Diverged(
            f"the mean KL of an answer in rollout {step + 1} is {kl_mean}", hint="lower learningRate; the last checkpoint is good"
        )
    if max_kl and kl_mean > max_kl:
        raise Diverged(
            f"ppo.maxKl: the mean KL of an answer in rollout {step + 1} is {kl_mean:.2f} nats, at most {max_kl}",
            hint="raise kl.coefficient or lower learningRate; the last checkpoint is good",
        )
