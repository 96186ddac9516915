"""The updates of PPO: policy and critic learn from a judged rollout, minibatch by minibatch (rules P11, P15 to P18)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_api.ppo import PPO
from rlhf_trainer.data import packing
from rlhf_trainer.data.collate import ConversationBatch, pack_conversations
from rlhf_trainer.data.order import Cursor, rank_share
from rlhf_trainer.loop import Loop, Part
from rlhf_trainer.rl.losses import lm_loss, policy_loss, value_loss
from rlhf_trainer.run import Run
from rlhf_trainer.stages import experience, inputs, setup
from rlhf_trainer.stages.ema import Ema
from rlhf_trainer.stages.experience import Answers
from rlhf_trainer.stages.ppo_models import PPOModels
from rlhf_trainer.stages.tally import Tally
from rlhf_trainer.strategy.base import Strategy

PTX_MIN_WIDTH = 128
"""Narrowest sequence that SFT rows are packed into."""


class Updates:
    """Applies rollouts to policy and critic."""

    def __init__(self, run: Run, config: PPO, strategy: Strategy, models: PPOModels, ema: Ema | None) -> None:
        self.run, self.config, self.strategy, self.models, self.ema = run, config, strategy, models, ema
        self.parts: dict[str, Part] = {}
        self.ptx_data, self.ptx_cursor = None, None
        if config.ptx_coefficient and inputs.has_dataset(run, "pretrainDataset"):
            self.ptx_data = inputs.dataset(run, "pretrainDataset", "conversations")
            self.ptx_cursor = Cursor(run.config.seed, len(self.ptx_data.train), config.minibatch_size, None)
            self.parts["ptx_cursor"] = self.ptx_cursor

    def update(self, loop: Loop, minibatches: Sequence[list[Answers]], *, num_rows: int) -> dict[str, float]:
        """All optimizer steps on one rollout. The policy stays as it is during the critic's warm-up (rule P16)."""
        began = time.monotonic()
        loop.reporter.enter("training")
        is_warm = loop.step >= self.config.critic_warmup_steps
        tally = Tally()
        filler = next(batch for batches in minibatches for batch in batches)
        for epoch in range(self.config.epochs_per_rollout):
            for number, batches in enumerate(minibatches):
                count = self._count(batches)
                if is_warm:
                    self._update_policy(loop, batches, filler, count, tally, is_first=epoch == number == 0)
                self._update_critic(loop, batches, filler, count, tally)
                loop.reporter.alive()
        metrics = tally.over(self.strategy.world)
        seconds = time.monotonic() - began
        return metrics | {"update_seconds": seconds, "answers_per_second": num_rows * self.config.epochs_per_rollout / max(seconds, 1e-9)}

    def _items(self, batch: Answers) -> int:
        """What `lossMean` averages over: tokens or answers."""
        return int(batch.mask.sum() if self.config.loss_mean == "token" else batch.is_counted.sum())

    def _count(self, batches: Sequence[Answers]) -> int:
        """Tokens, or answers, of the global minibatch: the divisor of both losses."""
        return int(self.strategy.world.sum_number(sum(map(self._items, batches))))

    def _update_policy(self, loop: Loop, batches: list[Answers], filler: Answers, count: int, tally: Tally, *, is_first: bool) -> None:
        trained, config = self.models.policy, self.config
        ptx_batches, num_labels = self._ptx_batches()
        seen: set[int] = set()

        def ppo_loss(batch: Answers) -> Tensor:
            found, _ = experience.log_probs(trained.model, batch, config.temperature)
            loss, stats = policy_loss(
                found, batch.old_log_probs, batch.advantages, batch.mask, config.clip, config.clip, None, config.loss_mean, count
            )
            if id(batch) not in seen:
                seen.add(id(batch))
                tally.add("policy_loss", loss.detach() * count, self._items(batch))
                tally.add_means({"clip_fraction": stats["clipfrac"], "ratio_mean": stats["ratio_mean"]}, batch.mask.sum())
                tally.add_means({"approx_kl": stats["approx_kl"]}, batch.mask.sum())
                tally.highest("ratio_max", stats["ratio_max"])
                if is_first:  # rule P5: before the first step the policy is the one that answered
                    deviation = torch.where(batch.mask.bool(), (found.detach() - batch.old_log_probs).exp() - 1, 0.0)
                    tally.highest("first_ratio_deviation", deviation.abs().max())
            return loss

        def ptx_loss(batch: ConversationBatch) -> Tensor:
            loss: Tensor = trained.model(
                batch.input_ids,
                batch.attention_mask,
                batch.position_ids,
                lambda hidden, head: lm_loss(hidden, batch.labels, num_labels, head=head),
            )
            tally.add("ptx_loss", loss.detach() * num_labels, batch.num_labels)
            return config.ptx_coefficient * loss

        def loss_of(batch: Answers | ConversationBatch) -> Tensor:
            return ptx_loss(batch) if isinstance(batch, ConversationBatch) else ppo_loss(batch)

        mixed: list[Answers | ConversationBatch] = [*ptx_batches, *batches]
        report = loop.update(trained, mixed, loss_of, max_norm=config.gradient_clip, filler=filler)
        tally.add("grad_norm", report.grad_norm)
        tally.add("learning_rate", report.learning_rate)
        if self.ema is not None:
            self.ema.update(trained.module)

    def _update_critic(self, loop: Loop, batches: list[Answers], filler: Answers, count: int, tally: Tally) -> None:
        trained, config = self.models.critic, self.config
        seen: set[int] = set()

        def loss_of(batch: Answers) -> Tensor:
            found = experience.values(trained.model, batch)
            loss, stats = value_loss(found, batch.values, batch.returns, batch.mask, config.value_clip, config.loss_mean, count)
            if id(batch) not in seen:
                seen.add(id(batch))
                tally.add("value_loss", loss.detach() * count, self._items(batch))
                tally.add_means({"value_clip_fraction": stats["clipfrac"]}, batch.mask.sum())
            return loss

        report = loop.update(trained, batches, loss_of, max_norm=config.gradient_clip, filler=filler)
        tally.add("critic_grad_norm", report.grad_norm)
        tally.add("critic_learning_rate", report.learning_rate)

    def _ptx_batches(self) -> tuple[list[ConversationBatch], int]:
        """The next SFT rows for one policy step, and their labelled tokens over all workers (rule P17)."""
        if self.ptx_data is None or self.ptx_cursor is None:
            return [], 0
        world = self.strategy.world
        window = self.ptx_cursor.next()
        assert window is not None, "a cursor without an end always has a next window"
        rows = self.ptx_data.train.take(rank_share(window[1], world.rank, world.size))
        batches = []
        if rows:
            lengths = [len(row.input_ids) for row in rows]
            bins = packing.pack(lengths, max(PTX_MIN_WIDTH, *lengths))
            size = self.run.config.plan.micro_batch_size
            batches = [pack_conversations(rows, group, self.ptx_data.pad_id).to(world.device) for group in setup.split_evenly(bins, size)]
        return batches, int(world.sum_number(sum(batch.num_labels for batch in batches)))
