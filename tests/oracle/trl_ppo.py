"""One rollout and two updates of PPO, by TRL's trainer and by ours, on the same models, prompts and answers.

    python -m tests.oracle.trl_ppo          (with trl 1.12.0 on PYTHONPATH: `make numerics` puts it there)

TRL's last PPO is an oracle for what the two define alike: answers of full length, one score at the last token. Its trainer runs whole; only the
answers are given, so that both see the same. Recorded are the advantages before whitening, the losses, and the gradients of both updates.
Where TRL differs on purpose it is not asked: it pays the score one column after a stop token.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rlhf_trainer.models.heads import ScoreModel
from rlhf_trainer.rl.losses import policy_loss, value_loss
from rlhf_trainer.rollout.generate import Generated
from rlhf_trainer.stages import experience
from tests.oracle.models import PAD, VOCAB
from tests.oracle.test_ppo_step import KL, MUTANTS, SAMPLING, TEMPERATURE, Models, _models, ppo, prompt_rows

LENGTH, UPDATES, RATE, CLIP = 10, 2, 0.05, 0.2
TOLERANCE = 2e-5
CAUGHT = (
    "temperature at rollout only",
    "positions count padding",
    "values of the state after the action",
    "advantages not whitened",
    "mean added back",
)
"""Mutants of the step that full answers can show."""


@dataclass
class Record:
    """What one side computed."""

    advantages: Tensor | None = None
    """(rows, LENGTH), before whitening."""
    scores: float = 0.0
    kl: float = 0.0
    losses: list[tuple[float, float]] = field(default_factory=list)
    """Policy and value loss of each update."""
    gradients: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Of policy and critic, flat."""


def our_models() -> Models:
    """Copies, so that an update of one side is none of the other."""
    models = copy.deepcopy(_models())
    models.reward = ScoreModel(models.reward.hf, mean=0.0)  # TRL has no such offset
    return models


def played_answers() -> Tensor:
    """(rows, LENGTH): full answers without stop or padding tokens."""
    return torch.randint(11, VOCAB, (len(prompt_rows()), LENGTH), generator=torch.Generator().manual_seed(8))


def by_us() -> Record:
    """The stage's own functions."""
    models, rows, record = our_models(), prompt_rows(), Record()
    tokens = played_answers()
    generated = Generated(tokens, torch.zeros(tokens.shape), torch.ones_like(tokens))
    (batch,) = experience.micro_batches(rows, generated, len(rows), SAMPLING)
    with torch.no_grad():
        batch.raw_scores = experience.raw_scores(models.reward, batch)
        batch.values = experience.values(models.critic, batch)
        batch.old_log_probs, batch.entropy = experience.log_probs(models.policy, batch, TEMPERATURE, with_entropy=True)
        batch.ref_log_probs, _ = experience.log_probs(models.reference, batch, TEMPERATURE)
    experience.set_rewards([batch], ppo(missingEosPenalty=0.0, rewardClip=1000.0), KL, None)
    order = sorted(range(len(rows)), key=lambda i: len(batch.rows[i].prompt_ids))
    record.advantages = (batch.returns - batch.values)[order]
    record.scores = float(batch.raw_scores.mean())
    record.kl = float((batch.old_log_probs - batch.ref_log_probs).sum(1).mean())
    for _ in range(UPDATES):
        found, _ = experience.log_probs(models.policy, batch, TEMPERATURE)
        policy, _ = policy_loss(found, batch.old_log_probs, batch.advantages, batch.mask, CLIP, CLIP)
        value, _ = value_loss(experience.values(models.critic, batch), batch.values, batch.returns, batch.mask, CLIP)
        (policy + value).backward()
        record.losses.append((policy.item(), value.item()))
        record.gradients.append((_flat(models.policy), _flat(models.critic)))
        torch.optim.SGD([*models.policy.parameters(), *models.critic.parameters()], lr=RATE).step()
        for model in (models.policy, models.critic):
            model.zero_grad()
    return record


def by_trl() -> Record:
    """TRL's trainer, with its rollout played and its figures recorded."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    models, rows, record = our_models(), prompt_rows(), Record()
    answers = {tuple(int(i) for i in row.prompt_ids): answer for row, answer in zip(rows, played_answers(), strict=True)}
    whiten = ppo_trainer.masked_whiten

    def play(model: Any, queries: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        said = torch.stack([answers[tuple(query[query != PAD].tolist())] for query in queries])
        whole = torch.cat([queries, said], dim=1)
        logits = ppo_trainer.forward(model, whole, PAD).logits[:, queries.shape[1] - 1 : -1]
        record_order.extend((queries != PAD).sum(1).tolist())
        return whole, logits / (TEMPERATURE + 1e-7)

    def recorded_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        record.advantages = values[torch.tensor(record_order).argsort()]
        return whiten(values, mask, shift_mean)

    class RecordingSGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            record.gradients.append((_flat(models.policy.hf), _flat(models.critic.hf)))
            super().step(closure)

    class RecordingTrainer(PPOTrainer):  # type: ignore[misc]
        def log(self, logs: dict[str, float], *_: Any, **__: Any) -> None:
            record.scores, record.kl = logs["objective/scores"], logs["objective/kl"]
            record.losses.append((logs["loss/policy_avg"], logs["loss/value_avg"]))

    record_order: list[int] = []
    ppo_trainer.batch_generation, ppo_trainer.masked_whiten = play, recorded_whiten
    optimizer = RecordingSGD([*models.policy.hf.parameters(), *models.critic.hf.parameters()], lr=RATE)
    with tempfile.TemporaryDirectory() as directory:
        settings = PPOConfig(
            output_dir=directory, per_device_train_batch_size=len(rows), gradient_accumulation_steps=1, num_mini_batches=1,
            num_ppo_epochs=UPDATES, total_episodes=len(rows), response_length=LENGTH, temperature=TEMPERATURE, kl_coef=KL, gamma=0.97,
            lam=0.9, cliprange=CLIP, cliprange_value=CLIP, vf_coef=1.0, num_sample_generations=0, local_rollout_forward_batch_size=len(rows),
            report_to="none", use_cpu=True, save_strategy="no", gradient_checkpointing=False, bf16=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = RecordingTrainer(
            settings, SimpleNamespace(pad_token_id=PAD, eos_token_id=1), models.policy.hf, models.reference.hf, models.reward.hf,
            [{"input_ids": row.prompt_ids.tolist()} for row in rows], models.critic.hf, data_collator=_pad_left, eval_dataset=[],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        )  # fmt: skip
        trainer.train()
    return record


def _pad_left(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    return {"input_ids": torch.tensor([[PAD] * (width - len(row["input_ids"])) + row["input_ids"] for row in rows])}


def _flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()


def differences(ours: Record, theirs: Record) -> Iterator[tuple[str, float]]:
    """What was compared, and the difference relative to TRL's figure."""
    assert ours.advantages is not None
    assert theirs.advantages is not None
    yield "mean score", abs(ours.scores / theirs.scores - 1)
    yield "KL of an answer (k1)", abs(ours.kl / theirs.kl - 1)
    yield "advantages before whitening", _apart(ours.advantages, theirs.advantages)
    policy, value = (sum(losses[i] for losses in ours.losses) / UPDATES for i in (0, 1))  # TRL logs the mean over updates
    yield "policy loss, mean of two updates", abs(policy / theirs.losses[0][0] - 1)
    yield "value loss, mean of two updates", abs(value / theirs.losses[0][1] - 1)
    for number, (found, wanted) in enumerate(zip(ours.gradients, theirs.gradients, strict=True), 1):
        yield f"gradient of the policy, update {number}", _apart(found[0], wanted[0])
        yield f"gradient of the critic, update {number}", _apart(found[1], wanted[1])


def checks() -> Iterator[tuple[str, float, bool]]:
    """Name, largest difference, and whether it is as it must be: none for our code, one for each mutant of it."""
    theirs = by_trl()
    for name, difference in differences(by_us(), theirs):
        yield name, difference, difference <= TOLERANCE
    for name in CAUGHT:
        where, mutant = MUTANTS[name]
        with patch.object(experience, where, mutant(getattr(experience, where))):
            difference = max(found for _, found in differences(by_us(), theirs))
        yield f"mutant: {name}", difference, difference > TOLERANCE


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def main() -> int:
    """Print a JSON line for each check. The exit code is 0 only when all hold."""
    is_fine = True
    for name, difference, holds in checks():
        is_fine = is_fine and holds
        print(json.dumps([name, difference, holds]), flush=True)
    return int(not is_fine)


if __name__ == "__main__":
    sys.exit(main())
