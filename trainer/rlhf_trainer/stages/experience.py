"""One rollout of PPO: prompts in, answers with everything an update needs out.

Shapes: b rows of a micro-batch, t columns of prompt and answer, r columns of the answer alone. Prompts are padded on the left, so that
answers start in the same column `num_prompt`; micro-batches hold rows of similar length and are the same in every forward pass of a
rollout: the first ratio of the update is then exactly 1 (rules P5, G3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_trainer.data import packing
from rlhf_trainer.data.collate import pad_prompts
from rlhf_trainer.data.rows import PromptRow
from rlhf_trainer.models.heads import last_token
from rlhf_trainer.rl import rewards
from rlhf_trainer.rl.advantages import gae
from rlhf_trainer.rl.whitening import whiten
from rlhf_trainer.rollout.generate import GenerateConfig, Generated, generate, position_ids
from rlhf_trainer.rollout.logprobs import token_entropy, token_logprobs

if TYPE_CHECKING:
    from torch import nn

    from rlhf_api.ppo import PPO
    from rlhf_trainer.rl.chunks import Head


@dataclass(slots=True, eq=False)
class Answers:
    """A micro-batch of answered prompts. The fields below `has_stop` are filled in, one after the other, while the rollout is judged."""

    rows: Sequence[PromptRow]
    input_ids: Tensor
    """(b, t)"""
    attention_mask: Tensor
    """(b, t), 1 on prompt and answer tokens"""
    num_prompt: int
    """Columns of the prompt."""
    tokens: Tensor
    """(b, r)"""
    mask: Tensor
    """(b, r), 1 on the answer's tokens, stop token included; all 0 in a spare row, which counts for nothing"""
    sampled_log_probs: Tensor
    """(b, r), under the distribution that the tokens were drawn from"""
    has_stop: Tensor
    """(b,)"""
    old_log_probs: Tensor = field(init=False)
    ref_log_probs: Tensor = field(init=False)
    entropy: Tensor = field(init=False)
    values: Tensor = field(init=False)
    raw_scores: Tensor = field(init=False)
    """(b,), of the reward model"""
    scores: Tensor = field(init=False)
    """(b,), normalised, clipped, penalised"""
    advantages: Tensor = field(init=False)
    returns: Tensor = field(init=False)

    @property
    def positions(self) -> Tensor:
        """(b, t), counted from the first real token (rule P7)."""
        return position_ids(self.attention_mask)

    @property
    def is_counted(self) -> Tensor:
        """(b,), False for spare rows."""
        return self.mask.bool().any(dim=1)


def generate_answers(
    hf: nn.Module, rows: Sequence[PromptRow], config: GenerateConfig, seeds: Sequence[int], device: torch.device
) -> Generated:
    """Answer the prompts, in their order."""
    batch = pad_prompts(rows, config.pad_id).to(device)
    return generate(hf, batch.input_ids, batch.attention_mask, config, seeds)


def given_answers(answers: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Generated:
    """Answers that exist already, as if they had just been generated; nobody knows under which distribution, so `logprobs` are 0."""
    width = max(map(len, answers))
    tokens = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in answers], device=device)
    lengths = torch.tensor([len(ids) for ids in answers], device=device)
    mask = (torch.arange(width, device=device)[None, :] < lengths[:, None]).long()
    return Generated(tokens, torch.zeros(tokens.shape, device=device), mask)


def micro_batches(
    rows: Sequence[PromptRow], generated: Generated, size: int, config: GenerateConfig, *, is_spare: bool = False
) -> list[Answers]:
    """Prompts and answers in micro-batches of similar length, without the columns that a batch does not need."""
    lengths = generated.mask.sum(dim=1)
    totals = [len(row.prompt_ids) + int(length) for row, length in zip(rows, lengths.tolist(), strict=True)]
    return [_cut(rows, generated, group, config, is_spare) for group in packing.micro_batches(totals, size)]


def _cut(rows: Sequence[PromptRow], generated: Generated, group: list[int], config: GenerateConfig, is_spare: bool) -> Answers:
    device = generated.tokens.device
    chosen = torch.tensor(group, device=device)
    width = max(1, int(generated.mask[chosen].sum(dim=1).max()))
    prompts = pad_prompts([rows[i] for i in group], config.pad_id).to(device)
    tokens, mask = generated.tokens[chosen, :width], generated.mask[chosen, :width]
    stops = torch.tensor(config.stop_ids, device=device)
    return Answers(
        rows=[rows[i] for i in group],
        input_ids=torch.cat([prompts.input_ids, tokens], dim=1),
        attention_mask=torch.cat([prompts.attention_mask, mask], dim=1),
        num_prompt=prompts.input_ids.shape[1],
        tokens=tokens,
        mask=torch.zeros_like(mask) if is_spare else mask,
        sampled_log_probs=generated.logprobs[chosen, :width],
        has_stop=(torch.isin(tokens, stops) & mask.bool()).any(dim=1),
    )


def log_probs(model: Any, answers: Answers, temperature: float, *, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
    """Log-probability of every answer token (b, r) and, when asked for, the entropy of its distribution (else empty); fp32.

    Token i of the answer is predicted by the hidden state of the column before it.
    """
    here = slice(answers.num_prompt - 1, answers.num_prompt - 1 + answers.tokens.shape[1])

    def on_hidden(hidden_bth: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        hidden_brh = hidden_bth[:, here]
        found = token_logprobs(hidden_brh, head, answers.tokens, temperature)
        return found, token_entropy(hidden_brh, head, temperature) if with_entropy else found.new_zeros(0)

    found: tuple[Tensor, Tensor] = model(answers.input_ids, answers.attention_mask, answers.positions, on_hidden)
    return found


def values(model: Any, answers: Answers) -> Tensor:
    """The critic's estimate before every answer token (b, r): from the hidden state before the action (rule P2)."""
    values_bt = model(answers.input_ids, answers.attention_mask, answers.positions)
    first = answers.num_prompt - 1
    found: Tensor = values_bt[:, first : first + answers.tokens.shape[1]]
    return found


def raw_scores(model: Any, answers: Answers) -> Tensor:
    """The reward model's score of prompt and answer (b,), at the last real token (rule R1)."""
    return last_token(model(answers.input_ids, answers.attention_mask, answers.positions), answers.attention_mask)


def set_rewards(batches: Sequence[Answers], config: PPO, kl_coefficient: float, moments: rewards.RunningMoments | None) -> None:
    """Scores to token rewards to advantages and returns (rules P1, P3, P4, P20). All workers together: statistics are of the whole rollout.

    The order is: running normalisation, clip, penalty for a missing stop token, KL.
    """
    if moments is not None:
        moments.update(torch.cat([batch.raw_scores[batch.is_counted] for batch in batches]))
    for batch in batches:
        scores = batch.raw_scores if moments is None else moments.normalize(batch.raw_scores)
        scores = rewards.clip_scores(scores, config.reward_clip)
        batch.scores = rewards.penalize_missing_stop(scores, batch.has_stop, config.missing_eos_penalty)
        token_rewards = rewards.token_rewards(
            batch.scores, batch.old_log_probs, batch.ref_log_probs, batch.mask, kl_coefficient, config.kl.estimator
        )
        batch.advantages, batch.returns = gae(token_rewards, batch.values, batch.mask, config.gamma, config.gae_lambda)
    _whiten_together(batches)
    if config.importance_correction:
        _correct_sampling(batches)


def _whiten_together(batches: Sequence[Answers]) -> None:
    """One mean and one deviation for all tokens of the rollout: micro-batches have different widths, so they meet as one long row."""
    flat = torch.cat([batch.advantages.flatten() for batch in batches]).unsqueeze(0)
    mask = torch.cat([batch.mask.flatten() for batch in batches]).unsqueeze(0)
    white = whiten(flat, mask).squeeze(0)
    parts = torch.split(white, [batch.mask.numel() for batch in batches])
    for batch, part in zip(batches, parts, strict=True):
        batch.advantages = part.view_as(batch.mask)


def _correct_sampling(batches: Sequence[Answers]) -> None:
    """Weigh tokens by policy ÷ truncated sampling distribution (`importanceCorrection`, rule P5): top-k and top-p then stay unbiased.

    The weight is at most 1 up to rounding, because truncation only raises the probability of the tokens it keeps.
    """
    for batch in batches:
        weights = (batch.old_log_probs - batch.sampled_log_probs).clamp(max=0.0).exp()
        batch.advantages = batch.advantages * weights
