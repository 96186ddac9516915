"""Rules P1 to P5, P7, P9, P11, P20 (check A9): a whole PPO step through the stage's own functions, against a straight line.

The straight line takes one answer after the other: no padding, no mask, no batch, no chunked head, fp64 from the logits on. Formulas: Ziegler et
al. 2019 (arXiv:1909.08593), eq. 2; Schulman et al. 2016 (arXiv:1506.02438), eq. 16; Schulman et al. 2017 (arXiv:1707.06347), eq. 7.
"""

import copy
import math
import statistics
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from rlhf_api.ppo import PPO
from rlhf_trainer.data.rows import PromptRow
from rlhf_trainer.models.heads import LanguageModel, ScoreModel
from rlhf_trainer.rl import advantages, rewards
from rlhf_trainer.rl.losses import policy_loss, value_loss
from rlhf_trainer.rollout.generate import GenerateConfig
from rlhf_trainer.stages import experience
from tests.oracle import mutants
from tests.oracle.models import PAD, VOCAB, tiny
from tests.oracle.support import close, must_fail, names

TEMPERATURE = 1.3
KL = 0.1
LENGTHS = [3, 6, 2, 5]


@dataclass
class Models:
    """Four small models; the reference is not the policy, so that the KL is not 0."""

    policy: Any
    reference: Any
    critic: Any
    reward: Any


@cache
def _models() -> Models:
    from transformers import GPT2ForSequenceClassification

    policy, reference = LanguageModel(copy.deepcopy(tiny("gpt2"))), LanguageModel(copy.deepcopy(tiny("gpt2")))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    config = copy.deepcopy(tiny("gpt2").config)
    config.num_labels, config.pad_token_id = 1, PAD
    critic, reward = (ScoreModel(GPT2ForSequenceClassification(config).eval(), mean=mean) for mean in (0.0, 0.5))
    return Models(policy, reference, critic, reward)


def ppo(**changes) -> PPO:
    wire = {"prompts": {"uri": "builtin://datasets/tiny-chat-prompts"}, "temperature": TEMPERATURE, "kl": {"coefficient": KL}}
    settings = {"gamma": 0.97, "lambda": 0.9, "missingEosPenalty": 0.7, "normalizeReward": False, "rewardClip": 5.0}
    return PPO.model_validate(wire | settings | changes)


def prompt_rows() -> list[PromptRow]:
    numbers = np.random.default_rng(3)
    return [PromptRow(str(n), numbers.integers(11, VOCAB, n).astype(np.int32), None, "en") for n in LENGTHS]


SAMPLING = GenerateConfig(max_new_tokens=10, stop_ids=tuple(range(1, 11)), pad_id=PAD, temperature=TEMPERATURE)


def a_rollout(size: int = 2) -> list[experience.Answers]:
    """Answers in micro-batches, judged by all four models."""
    models, rows = _models(), prompt_rows()
    generated = experience.generate_answers(models.policy.hf, rows, SAMPLING, range(len(rows)), torch.device("cpu"))
    batches = experience.micro_batches(rows, generated, size, SAMPLING)
    with torch.no_grad():
        for batch in batches:
            batch.raw_scores = experience.raw_scores(models.reward, batch)
            batch.values = experience.values(models.critic, batch)
            batch.old_log_probs, batch.entropy = experience.log_probs(models.policy, batch, TEMPERATURE, with_entropy=True)
            batch.ref_log_probs, _ = experience.log_probs(models.reference, batch, TEMPERATURE)
    experience.set_rewards(batches, ppo(), KL, None)
    return batches


def losses_of(batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Policy and value loss of the minibatch after the policy has moved a little."""
    models, count = _models(), int(sum(batch.mask.sum() for batch in batches))
    policy, value = torch.zeros(()), torch.zeros(())
    for batch in batches:
        found, _ = experience.log_probs(models.policy, batch, TEMPERATURE)
        policy = policy + policy_loss(found, batch.old_log_probs + 0.05, batch.advantages, batch.mask, 0.2, 0.2, None, "token", count)[0]
        seen = experience.values(models.critic, batch)
        value = value + value_loss(seen, batch.values - 0.1, batch.returns, batch.mask, 0.2, "token", count)[0]
    return policy, value


def by_straight_line(batches) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two losses, one answer after the other."""
    models = _models()
    answers = []
    for batch in batches:
        for row, tokens, mask in zip(batch.rows, batch.tokens, batch.mask, strict=True):
            answers.append(_one_answer(models, [int(i) for i in row.prompt_ids], tokens[mask.bool()].tolist()))
    everything = [a for answer in answers for a in answer["advantages"]]
    mean, deviation = statistics.fmean(everything), statistics.stdev(everything)
    policy, value = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for answer in answers:
        for i, raw in enumerate(answer["advantages"]):
            new, v = answer["log_probs"][i], answer["values"][i]
            a, ratio = (raw - mean) / deviation, (new - new.item() - 0.05).exp()
            policy = policy - torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            old, target = v.item() - 0.1, raw + v.item()
            kept = old + (v - old).clamp(-0.2, 0.2)
            value = value + torch.maximum((v - target) ** 2, (kept - target) ** 2) / 2
    return policy / len(everything), value / len(everything)


def _one_answer(models: Models, prompt: list[int], tokens: list[int]) -> dict[str, Any]:
    ids, n = torch.tensor([prompt + tokens]), len(prompt)
    places = torch.arange(n - 1, n - 1 + len(tokens))

    def log_probs(model: Any) -> torch.Tensor:
        logits = model.hf(input_ids=ids).logits[0].double() / TEMPERATURE
        return logits.log_softmax(-1)[places, torch.tensor(tokens)]

    def scores(model: Any) -> torch.Tensor:
        hidden = model.hf.transformer(input_ids=ids).last_hidden_state[0].double()
        return hidden @ model.hf.score.weight[0].double() - model.mean

    new, values = log_probs(models.policy), scores(models.critic)[places]
    with torch.no_grad():
        reference, score = log_probs(models.reference), float(scores(models.reward)[-1])
    said, seen = new.tolist(), values.tolist()
    score = max(-5.0, min(5.0, score)) - (0.0 if tokens[-1] in SAMPLING.stop_ids else 0.7)
    paid = [-KL * (said[i] - float(reference[i])) for i in range(len(tokens))]
    paid[-1] += score
    found, last, following = [0.0] * len(tokens), 0.0, 0.0
    for i in reversed(range(len(tokens))):
        last = paid[i] + 0.97 * following - seen[i] + 0.97 * 0.9 * last
        found[i], following = last, seen[i]
    return {"log_probs": new, "values": values, "advantages": found}


def check_ppo_step(_: Any = None) -> None:
    """Losses and gradients of policy and critic. (The argument is for mutants, which are put into place around the call.)"""
    models = _models()
    batches = a_rollout()
    outcomes = []
    for losses in (losses_of(batches), by_straight_line(batches)):
        gradients = []
        for loss, model in zip(losses, (models.policy, models.critic), strict=True):
            model.zero_grad()
            loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        outcomes.append((losses, gradients))
    (ours, our_gradients), (wanted, wanted_gradients) = outcomes
    for found, expected in zip(ours, wanted, strict=True):
        close(found, expected.detach(), 2e-5)
    for found, expected in zip(our_gradients, wanted_gradients, strict=True):
        assert (found - expected).norm() < 2e-4 * expected.norm()


@pytest.mark.rule(
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P7",
    "P11",
    source="Ziegler et al. 2019, arXiv:1909.08593, eq. 2; Schulman et al. 2017, arXiv:1707.06347, eq. 7",
)
def test_a_ppo_step():
    assert {int(batch.has_stop.sum()) < len(batch.rows) for batch in a_rollout()} == {True, False}, "both kinds of ending take part"
    check_ppo_step()


MUTANTS = {
    "temperature at rollout only": ("token_logprobs", lambda ours: lambda h, head, ids, temperature: ours(h, head, ids, 1.0)),
    "positions count padding": ("position_ids", lambda _: lambda mask: torch.arange(mask.shape[1]).expand_as(mask)),
    "values of the state after the action": ("values", lambda ours: lambda model, batch: ours(model, batch).roll(-1, dims=1)),
    "score of the last column": ("last_token", lambda _: lambda scores, mask: scores[:, -1]),
    "advantages not whitened": ("whiten", lambda _: lambda x, mask: x * mask),
    "mean added back": ("whiten", lambda _: mutants.whiten_adds_mean_back),
    "unmasked GAE": ("gae", lambda _: mutants.gae_unmasked),
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.mutant("P2", "P5", "P7")
def test_the_step_check_catches(name, monkeypatch):
    where, mutant = MUTANTS[name]
    monkeypatch.setattr(experience, where, mutant(getattr(experience, where)))
    must_fail(check_ppo_step, None)


@pytest.mark.parametrize(**names([mutants.score_on_every_token, mutants.kl_sign_flipped]))
def test_the_step_check_catches_in_the_rewards(mutant, monkeypatch):
    monkeypatch.setattr(experience, "rewards", _Rewards(mutant))
    must_fail(check_ppo_step, None)


class _Rewards:
    """The module `rewards` with one function replaced."""

    def __init__(self, token_rewards):
        self.token_rewards = token_rewards

    def __getattr__(self, name):
        return getattr(rewards, name)


@pytest.mark.rule("P5")
def test_the_first_minibatch_has_a_ratio_of_exactly_one():
    for batch in a_rollout():
        found, _ = experience.log_probs(_models().policy, batch, TEMPERATURE)
        _, stats = policy_loss(found, batch.old_log_probs, batch.advantages, batch.mask, 0.2, 0.2)
        assert (stats["ratio_mean"], stats["ratio_max"], stats["clipfrac"]) == (1, 1, 0)
        assert abs(stats["approx_kl"]) < 1e-8


@pytest.mark.rule("P2")
def test_values_at_rollout_are_the_values_of_the_update():
    for batch in a_rollout():
        assert torch.equal(experience.values(_models().critic, batch).detach(), batch.values)


@pytest.mark.rule("P9")
def test_the_reference_of_a_fresh_policy_has_no_kl():
    batch = a_rollout(size=4)[0]
    with torch.no_grad():
        same, _ = experience.log_probs(LanguageModel(tiny("gpt2")), batch, TEMPERATURE)
    assert torch.equal(same, batch.old_log_probs)


@pytest.mark.rule("P11", "P15")
def test_the_size_of_micro_batches_changes_no_loss():
    for found, wanted in zip(losses_of(a_rollout(size=1)), losses_of(a_rollout(size=4)), strict=True):
        close(found, wanted.detach(), 1e-5)


def test_a_critic_that_knows_the_future_leaves_nothing_to_learn():
    """With gamma = 1 and values equal to the sum of later rewards, every advantage is 0."""
    paid, mask = torch.tensor([[0.5, -1.0, 2.0]]), torch.ones(1, 3)
    found, returns = advantages.gae(paid, torch.tensor([[1.5, 1.0, 2.0]]), mask, 1.0, 0.95)
    assert found.abs().max() == 0
    assert math.isclose(float(returns[0, 0]), 1.5)
